import { isDataPlaneWorker, runDataPlaneWorker } from './worker.ts'

if (isDataPlaneWorker()) runDataPlaneWorker()
