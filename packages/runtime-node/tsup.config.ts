import { packageConfig } from '../../tsup.base.ts'

export default packageConfig({ index: 'src/index.ts', relay: 'src/relay.ts', control: 'src/control.ts', dataplane: 'src/dataplane/index.ts', 'dataplane-worker': 'src/dataplane/worker-entry.ts' })
