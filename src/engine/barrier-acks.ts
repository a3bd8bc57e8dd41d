// Acknowledgements of barriers on their way to a kernel (wire-protocol.md 7.5).
//
// A kernel that writes counts the writes of an epoch in its log when the acknowledgement comes, and one that was superseded is
// in that log until its own disk is done with it, which nobody tells us: "BAD! BarrierAck #43 received with n_writes=1,
// expected n_writes=3!", and the connection is lost (observed). So the acknowledgement of an epoch with such writes is held
// back for a while. It costs nothing: clients of protocol C are answered by write acknowledgements, and the epochs themselves
// advance without it. Order is kept: what comes later waits behind it.

import type { Packet } from '../wire/drbd/packets.ts'
import { BARRIER_ACK_DELAY_MS } from './limits.ts'
import type { Timers } from './timers.ts'

interface HeldAck {
  readonly dueMs: number
  readonly packet: Packet
}

const TIMER = 'barrier-acks'

export class BarrierAcks {
  readonly #timers: Timers
  readonly #send: (packet: Packet) => void
  readonly #held: HeldAck[] = []

  constructor(timers: Timers, send: (packet: Packet) => void) {
    this.#timers = timers
    this.#send = send
  }

  /** `hold`: the peer may still be at work on writes of this epoch that it withdrew. */
  add(barrier: number, setSize: number, nowMs: number, hold: boolean): void {
    const packet: Packet = { type: 'P_BARRIER_ACK', volume: 0, barrier, setSize }
    if (!hold && this.#held.length === 0) this.#send(packet)
    else {
      this.#held.push({ dueMs: hold ? nowMs + BARRIER_ACK_DELAY_MS : nowMs, packet })
      this.#arm()
    }
  }

  /** The connection is gone. */
  reset(): void {
    this.#held.length = 0
    this.#timers.clear(TIMER)
  }

  #arm(): void {
    const first = this.#held[0]
    if (first === undefined || this.#timers.has(TIMER)) return
    this.#timers.set(TIMER, first.dueMs, () => {
      // Whatever waited only behind the first one goes with it.
      for (let next = this.#held[0]; next !== undefined && next.dueMs <= first.dueMs; next = this.#held[0]) {
        this.#held.shift()
        this.#send(next.packet)
      }
      this.#arm()
    })
  }
}
