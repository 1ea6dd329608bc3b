import type http2 from 'node:http2'

/**
 * Tries a connection by an HTTP/2 ping in every interval, and ends it when one is not answered until the next. Without this, a far end
 * that has silently gone would count as there until TCP gives up, many minutes later.
 */
export function keepPinging(session: http2.Http2Session, everyMs: number, farEnd: string): void {
  let pending = false
  const timer = setInterval(() => {
    // In the turn in which it is destroyed, and until it has told so, a session throws when it is asked for a ping.
    if (session.destroyed) return
    if (pending) return session.destroy(new Error(`${farEnd} does not answer pings`))
    pending = session.ping(() => {
      pending = false
    })
  }, everyMs)
  timer.unref()
  session.once('close', () => clearInterval(timer))
}
