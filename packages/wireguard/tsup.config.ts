import { packageConfig } from '../../tsup.base.ts'

export default packageConfig({ index: 'src/index.ts', 'text/index': 'src/text/index.ts' })
