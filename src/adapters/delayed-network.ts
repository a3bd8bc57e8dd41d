// A network that is slower than it is, or cut, for the lab: wraps a Network on one host. On two hosts with the same
// settings a byte takes `delayMs` in each direction.
//
// Delay: what arrives is held back until it is `delayMs` old, in order, the end of the link included. The sender sees none of it,
// as with a real long line; what is under way is bounded as by TCP's window. A connect takes a round trip more.
//
// Cut: as if a firewall on this host dropped every packet of the peer, both ways (both hosts may be cut, or one).
//   links      freeze. Nothing arrives any more, not even the news that the peer closed; what is sent stays here, the first
//              CUT_BUFFER_BYTES as if in the socket's buffer, the rest counted by `queuedBytes`. A link that is closed meanwhile
//              keeps its end of the stream to itself.
//   connects   wait, and time out; one that is still waiting when the network heals goes through.
//   accepts    are dropped at once.
// Heal: as after the rule is removed within TCP's patience: nothing was lost, the frozen links go on where they were
// (at once; real ones would wait for their next retransmission), and those closed meanwhile now tell the peer.

import { KIB, MIB } from '../base/units.ts'
import type { Clock, Link, LinkHandler, Network } from '../runtime/ports.ts'

/** One read that is not for the handler's own memory. */
const OWN_BYTES = 64 * KIB
/** What the operating system would take from a sender that gets no acknowledgements. */
const CUT_BUFFER_BYTES = MIB
/** Held back by the delay; then the sender must wait, as with a full window. */
const UNDER_WAY_BYTES_MAX = 64 * MIB

export interface DelayedNetwork extends Network {
  readonly isCut: boolean
  cut(): void
  heal(): void
}

/** `delayMs` is asked for each piece of data: it may change at any time. */
export function delayedNetwork(network: Network, delayMs: () => number, clock: Clock): DelayedNetwork {
  return new LabNetwork(network, delayMs, clock)
}

interface Wakeup {
  cancel(): void
}

class LabNetwork implements DelayedNetwork {
  readonly inner: Network
  readonly delayMs: () => number
  readonly clock: Clock
  readonly links = new Set<LabLink>()
  readonly attempts = new Set<LabAttempt>()
  #isCut = false

  constructor(inner: Network, delayMs: () => number, clock: Clock) {
    this.inner = inner
    this.delayMs = delayMs
    this.clock = clock
  }

  get isCut(): boolean {
    return this.#isCut
  }

  cut(): void {
    if (this.#isCut) return
    this.#isCut = true
    for (const link of this.links) link.freeze()
    for (const attempt of this.attempts) attempt.onCut()
  }

  heal(): void {
    if (!this.#isCut) return
    this.#isCut = false
    for (const link of [...this.links]) link.thaw()
    for (const attempt of [...this.attempts]) attempt.onHeal()
  }

  connect(timeoutMs: number, onUp: (link: Link) => void, onFailure: (reason: string) => void): { cancel(): void } {
    const attempt = new LabAttempt(this, timeoutMs, onUp, onFailure)
    this.attempts.add(attempt)
    attempt.start()
    return attempt
  }

  listen(onLink: (link: Link) => void, onFailure: (reason: string) => void): void {
    this.inner.listen((link) => {
      const delayMs = this.delayMs()
      if (this.#isCut) link.close()
      else if (delayMs <= 0) onLink(new LabLink(this, link))
      else {
        this.clock.wakeAt(this.clock.nowMs() + delayMs, () => {
          if (this.#isCut) link.close()
          else onLink(new LabLink(this, link))
        })
      }
    }, onFailure)
  }

  stopListening(): void {
    this.inner.stopListening()
  }
}

class LabAttempt {
  readonly #network: LabNetwork
  readonly #deadlineMs: number
  readonly #onUp: (link: Link) => void
  readonly #onFailure: (reason: string) => void
  #inner: Wakeup | undefined
  /** Connected, and waiting until the round trip of the delay is over. */
  #up: Link | undefined
  #upTimer: Wakeup | undefined
  #timer: Wakeup | undefined

  constructor(network: LabNetwork, timeoutMs: number, onUp: (link: Link) => void, onFailure: (reason: string) => void) {
    this.#network = network
    this.#deadlineMs = network.clock.nowMs() + timeoutMs
    this.#onUp = onUp
    this.#onFailure = onFailure
  }

  start(): void {
    this.#timer = this.#network.clock.wakeAt(this.#deadlineMs, () => this.#fail('timed out'))
    if (!this.#network.isCut) this.#connect()
  }

  cancel(): void {
    this.#end()
  }

  onCut(): void {
    this.#dropInner()
  }

  onHeal(): void {
    this.#connect()
  }

  #connect(): void {
    const leftMs = Math.max(1, this.#deadlineMs - this.#network.clock.nowMs())
    this.#inner = this.#network.inner.connect(
      leftMs,
      (link) => this.#connected(link),
      (reason) => this.#fail(reason),
    )
  }

  #connected(link: Link): void {
    this.#inner = undefined
    this.#up = link
    const delayMs = this.#network.delayMs()
    if (delayMs <= 0) this.#succeed()
    else {
      const readyMs = this.#network.clock.nowMs() + 2 * delayMs
      this.#upTimer = this.#network.clock.wakeAt(readyMs, () => this.#succeed())
    }
  }

  #succeed(): void {
    const link = this.#up as Link
    this.#up = undefined
    this.#end()
    this.#onUp(new LabLink(this.#network, link))
  }

  #fail(reason: string): void {
    this.#end()
    this.#onFailure(reason)
  }

  #end(): void {
    this.#timer?.cancel()
    this.#dropInner()
    this.#network.attempts.delete(this)
  }

  #dropInner(): void {
    this.#inner?.cancel()
    this.#inner = undefined
    this.#upTimer?.cancel()
    this.#upTimer = undefined
    this.#up?.close()
    this.#up = undefined
  }
}

type Arrival =
  | { readonly type: 'data'; readonly dueMs: number; readonly chunk: Uint8Array }
  /** In the handler's own target already. */
  | { readonly type: 'filled'; readonly dueMs: number; readonly lengthBytes: number }
  | { readonly type: 'close'; readonly dueMs: number; readonly reason: string }

class LabLink implements Link, LinkHandler {
  readonly #network: LabNetwork
  readonly #inner: Link
  #handler: LinkHandler | undefined
  /** Whether the last `target` was the handler's. */
  #direct = false
  readonly #own = new Uint8Array(OWN_BYTES)
  #arrivals: Arrival[] = []
  #arrivedBytes = 0
  #timer: Wakeup | undefined
  #frozen = false
  #paused = false
  #innerPaused = false
  #closed = false
  /** Sent while frozen. */
  #held: Uint8Array[] = []
  #heldBytes = 0

  constructor(network: LabNetwork, inner: Link) {
    this.#network = network
    this.#inner = inner
    network.links.add(this)
  }

  get queuedBytes(): number {
    return this.#inner.queuedBytes + Math.max(0, this.#heldBytes - CUT_BUFFER_BYTES)
  }

  setHandler(handler: LinkHandler): void {
    this.#handler = handler
    this.#inner.setHandler(this)
    this.#steer()
  }

  send(chunks: readonly Uint8Array[]): void {
    if (this.#closed) return
    if (!this.#frozen) {
      this.#inner.send(chunks)
      return
    }
    for (const chunk of chunks) {
      this.#held.push(new Uint8Array(chunk)) // it counts as sent, its memory may be used again
      this.#heldBytes += chunk.length
    }
    this.#network.clock.wakeAt(this.#network.clock.nowMs(), () => {
      if (!this.#closed && this.#frozen && this.queuedBytes === 0) this.#handler?.onDrain()
    })
  }

  pauseReading(): void {
    this.#paused = true
    this.#steer()
  }

  resumeReading(): void {
    this.#paused = false
    this.#steer()
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#forget()
    if (!this.#frozen) this.#closeInner()
  }

  // ---- cut ------------------------------------------------------------------------------------------------------------

  freeze(): void {
    this.#frozen = true
    this.#steer()
  }

  thaw(): void {
    this.#frozen = false
    if (this.#closed) {
      this.#closeInner()
      return
    }
    const held = this.#held
    this.#held = []
    this.#heldBytes = 0
    if (held.length > 0) this.#inner.send(held)
    this.#steer()
  }

  #closeInner(): void {
    this.#network.links.delete(this)
    this.#inner.close()
  }

  // ---- the inner link's handler ---------------------------------------------------------------------------------------

  target(): Uint8Array {
    const target = this.#passesThrough ? this.#handler?.target?.() : undefined
    this.#direct = target !== undefined
    return target ?? this.#own
  }

  onFilled(lengthBytes: number): void {
    if (this.#closed) return
    if (!this.#direct) this.onData(this.#own.subarray(0, lengthBytes))
    else if (this.#passesThrough) this.#handler?.onFilled?.(lengthBytes)
    else {
      this.#arrivedBytes += lengthBytes
      this.#arrive({ type: 'filled', dueMs: this.#dueMs(), lengthBytes })
    }
  }

  onData(chunk: Uint8Array): void {
    if (this.#closed) return
    if (this.#passesThrough) this.#handler?.onData(chunk)
    else {
      this.#arrivedBytes += chunk.length
      this.#arrive({ type: 'data', dueMs: this.#dueMs(), chunk: new Uint8Array(chunk) })
    }
  }

  onDrain(): void {
    if (!this.#closed && this.queuedBytes === 0) this.#handler?.onDrain()
  }

  onClose(reason: string): void {
    if (this.#closed) return
    this.#arrive({ type: 'close', dueMs: this.#network.clock.nowMs() + this.#network.delayMs(), reason })
  }

  #arrive(arrival: Arrival): void {
    this.#arrivals.push(arrival)
    this.#steer()
  }

  /** Brings the timer and the inner link's reading in line with the state. Never calls the handler. */
  #steer(): void {
    if (this.#closed) return
    const stopped = this.#frozen || this.#paused
    this.#pauseInner(stopped || this.#arrivedBytes > UNDER_WAY_BYTES_MAX)
    this.#timer?.cancel()
    this.#timer = undefined
    const first = this.#arrivals[0]
    if (first === undefined || stopped || this.#handler === undefined) return
    this.#timer = this.#network.clock.wakeAt(first.dueMs, () => this.#deliverDue())
  }

  #pauseInner(pause: boolean): void {
    if (this.#innerPaused === pause) return
    this.#innerPaused = pause
    if (pause) this.#inner.pauseReading()
    else this.#inner.resumeReading()
  }

  get #passesThrough(): boolean {
    return !this.#frozen && !this.#paused && this.#arrivals.length === 0 && this.#network.delayMs() <= 0
  }

  #dueMs(): number {
    return this.#network.clock.nowMs() + Math.max(0, this.#network.delayMs())
  }

  /** A shorter delay does not overtake: what is due waits for what came before it. */
  #deliverDue(): void {
    const nowMs = this.#network.clock.nowMs()
    while (!this.#closed && !this.#frozen && !this.#paused) {
      const first = this.#arrivals[0]
      if (first === undefined || first.dueMs > nowMs) break
      this.#arrivals.shift()
      if (first.type === 'data') {
        this.#arrivedBytes -= first.chunk.length
        this.#handler?.onData(first.chunk)
      } else if (first.type === 'filled') {
        this.#arrivedBytes -= first.lengthBytes
        this.#handler?.onFilled?.(first.lengthBytes)
      } else {
        const handler = this.#handler
        this.#closed = true
        this.#forget()
        this.#network.links.delete(this)
        handler?.onClose(first.reason)
      }
    }
    this.#steer()
  }

  #forget(): void {
    this.#timer?.cancel()
    this.#arrivals = []
    this.#arrivedBytes = 0
    this.#held = []
    this.#heldBytes = 0
  }
}
