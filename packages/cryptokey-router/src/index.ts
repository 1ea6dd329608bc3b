export { CryptokeyRouter, type CryptokeyRouterErrorCode, type RouteEntry } from './router.ts'
