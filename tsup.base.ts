import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { defineConfig, type Options } from 'tsup'
import ts from 'typescript'

type Config = ReturnType<typeof defineConfig>

/** The one build every package shares: ESM and declarations into `dist`, neighbours left as imports. */
export function packageConfig(entry: Record<string, string>, more: Options = {}): Config {
  return defineConfig({
    entry,
    format: ['esm'],
    target: 'node20',
    platform: 'neutral',
    clean: true,
    splitting: true,
    treeshake: true,
    sourcemap: false,
    tsconfig: 'tsconfig.json',
    onSuccess: async () => emitDeclarations('src', 'dist'),
    ...more,
  })
}

/**
 * Writes a declaration beside the JavaScript for every source. The sources are written for isolated declarations, so each file's can be made from that
 * file alone: a second for a package, where a whole program for each would take most of a minute for all. `npm run check` checks the types.
 */
function emitDeclarations(from: string, to: string): void {
  for (const file of sources(from)) {
    const text = readFileSync(file, 'utf8')
    const { outputText, diagnostics = [] } = ts.transpileDeclaration(text, {
      fileName: file,
      reportDiagnostics: true,
      compilerOptions: { isolatedDeclarations: true, declaration: true, target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.NodeNext, verbatimModuleSyntax: true },
    })
    const errors = diagnostics.filter((each) => each.category === ts.DiagnosticCategory.Error)
    if (errors.length > 0) throw new Error(ts.formatDiagnostics(errors, { getCanonicalFileName: (name) => name, getCurrentDirectory: () => '.', getNewLine: () => '\n' }))
    const target = path.join(to, path.relative(from, file)).replace(/\.ts$/, '.d.ts')
    mkdirSync(path.dirname(target), { recursive: true })
    // Sources name each other with their extension; strangers resolve declarations by that of the JavaScript.
    writeFileSync(target, outputText.replace(/(\bfrom\s+|\bimport\()(['"])(\.{1,2}\/[^'"]+)\.ts\2/g, '$1$2$3.js$2'))
  }
}

function sources(folder: string): readonly string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(folder, entry.name)
    if (entry.isDirectory()) return sources(name)
    return entry.name.endsWith('.ts') && !/\.(test|bench)\.ts$/.test(entry.name) ? [name] : []
  })
}
