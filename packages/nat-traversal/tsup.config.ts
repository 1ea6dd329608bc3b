import { packageConfig } from '../../tsup.base.ts'

export default packageConfig({ index: 'src/index.ts', 'stun/index': 'src/stun/index.ts', 'disco/index': 'src/disco/index.ts', 'netcheck/index': 'src/netcheck/index.ts', 'paths/index': 'src/paths/index.ts', 'portmap/index': 'src/portmap/index.ts' })
