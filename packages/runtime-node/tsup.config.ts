import { packageConfig } from '../../tsup.base.ts'

export default packageConfig({ index: 'src/index.ts', relay: 'src/relay.ts', control: 'src/control.ts' })
