import { packageConfig } from '../../tsup.base.ts'

export default packageConfig({ index: 'src/index.ts', 'keys/index': 'src/keys/index.ts', 'noise/index': 'src/noise/index.ts', 'wasm/index': 'src/wasm/index.ts' })
