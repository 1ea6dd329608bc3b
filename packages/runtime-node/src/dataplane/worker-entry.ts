import { isMeshLaneWorker, runMeshLaneWorker } from '../mesh-lane/mesh-worker.ts'
import { isDataPlaneWorker, runDataPlaneWorker } from './worker.ts'

export { isDataPlaneWorker, isMeshLaneWorker }

if (isDataPlaneWorker()) runDataPlaneWorker()
else if (isMeshLaneWorker()) runMeshLaneWorker()
