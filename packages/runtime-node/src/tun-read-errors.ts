import { EAGAIN, EBADF, EBADFD, EINTR, EIO, ENODEV, ENXIO } from './dataplane/linux-abi.ts'

/** So many in a row, without a packet and without "nothing there" in between, are no accident: the device is as good as gone. */
const MAX_FAILURES_IN_A_ROW = 1_000

/**
 * What an error of reading a TUN device says. On Linux (drivers/net/tun.c: tun_chr_read_iter, tun_ring_recv, tun_put_user): EAGAIN, nothing
 * waits, also while the interface is down; EINTR, a signal came first; EBADFD, the interface was deleted; EINVAL and EFAULT, this one packet
 * could not be given out (a row of a kind that a vnet header has no word for, say) and is gone, what is behind it can be read. EIO, ENOMEM and
 * whatever else a kernel may say tell nothing about the device.
 */
export type TunReadVerdict =
  /** Nothing is there for now. */
  | 'empty'
  /** A packet may be lost; the next one may be there. */
  | 'lost'
  /** The device is no more. */
  | 'gone'

/** Tells what errors of reading mean. Those that say nothing about the device are counted: none of them may be read for ever. */
export class TunReadErrors {
  #inARow = 0

  /** Something was read. */
  read(): void {
    this.#inARow = 0
  }

  /** @param errno positive; 0 where nothing was read without an error */
  judge(errno: number): TunReadVerdict {
    switch (errno) {
      case 0:
      case EAGAIN:
      case EINTR:
      case EIO:
        this.#inARow = 0
        return 'empty'
      case EBADF:
      case EBADFD:
      case ENODEV:
      case ENXIO:
        return 'gone'
      default:
        this.#inARow += 1
        return this.#inARow >= MAX_FAILURES_IN_A_ROW ? 'gone' : 'lost'
    }
  }
}
