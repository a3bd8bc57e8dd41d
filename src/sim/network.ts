// The network between two simulated hosts: TCP as an application sees it. Each connection is two byte streams; a stream
// keeps its own order, streams have none between each other. What may happen to them:
//
//   delay       every segment takes a drawn time, now and then a very long one; segment borders are drawn, at random
//   back-pressure  a stream holds at most `bufferBytes` between sender and receiver; the rest waits in the sender's queue
//   cut         both ends get a reset, each at its own time; what was under way is lost
//   partition   nothing passes between the hosts (or in one direction); connects hang; after `heal` all goes on
//   half-open   nothing passes on one connection for ever, and nobody is told
//   crash       a process's sockets are closed by its kernel; a host without power is silent, and answers what arrives
//               for its former connections with a reset once it is up again
//
// Bytes are never dropped, doubled or changed. The fabric copies at the moment when the bytes leave the sender's queue,
// and reports buffers that changed while they were queued (checker `link-contract`).

import { assert } from '../base/assert.ts'
import type { Prng } from '../base/prng.ts'
import type { Link, LinkHandler, Network } from '../runtime/ports.ts'
import type { Report } from './failure.ts'
import { POISON } from './poisoning-pool.ts'
import type { Life, Scheduled, Scheduler } from './scheduler.ts'
import { hashBytes, hashOf } from './trace.ts'

export type HostName = 'a' | 'b'
export const otherHost = (host: HostName): HostName => (host === 'a' ? 'b' : 'a')

export interface NetworkConfig {
  readonly delayUsMin: number
  readonly delayUsMax: number
  /** So many segments in a thousand take `longDelayUs` instead. */
  readonly longDelayPerMille: number
  readonly longDelayUs: number
  readonly segmentBytesMax: number
  /** Bytes of a stream that left the sender's queue and were not yet taken by the receiver. */
  readonly bufferBytes: number
}

export const NETWORK_DEFAULTS: NetworkConfig = {
  delayUsMin: 30,
  delayUsMax: 1_500,
  longDelayPerMille: 3,
  longDelayUs: 60_000,
  segmentBytesMax: 65_536,
  bufferBytes: 262_144,
}

/** Pause before a lost SYN or a segment that met a partition is tried again. */
const RETRANSMIT_US = 200_000
const PUMP_DELAY_US_MAX = 20
/** What leaves at once is cut into about twice so many segments, however much it is: a whole resync in small ones takes seconds. */
const BULK_SEGMENTS = 64

interface Listener {
  readonly life: Life
  readonly onLink: (link: Link) => void
}

export class SimNetwork {
  /** A network may become slower, and fast again. */
  config: NetworkConfig
  readonly scheduler: Scheduler
  readonly prng: Prng
  readonly report: Report
  readonly connections = new Set<Connection>()
  /** Called when bytes arrive and when a connection comes or goes. */
  onActivity: () => void = () => {}
  readonly #listeners = new Map<HostName, Listener>()
  readonly #powered = new Map<HostName, boolean>([
    ['a', true],
    ['b', true],
  ])
  /** Directions that nothing passes, named by the sender. */
  readonly #blockedFrom = new Set<HostName>()
  #connectionCount = 0

  constructor(scheduler: Scheduler, prng: Prng, report: Report, config: NetworkConfig) {
    this.scheduler = scheduler
    this.prng = prng
    this.report = report
    this.config = config
  }

  /** The network as one process of a host sees it. */
  port(host: HostName, life: Life): Network {
    return {
      connect: (timeoutMs, onUp, onFailure) => this.#connect({ host, life, timeoutMs, onUp, onFailure }),
      listen: (onLink, onFailure) => this.#listen(host, life, onLink, onFailure),
      stopListening: () => {
        if (this.#listeners.get(host)?.life === life) this.#listeners.delete(host)
      },
    }
  }

  // ---- faults ---------------------------------------------------------------------------------------------------------

  /** Resets all connections, or one of them. */
  cut(connection?: Connection): void {
    this.scheduler.note(connection === undefined ? 'network cut' : `${connection.name} cut`)
    for (const each of connection === undefined ? [...this.connections] : [connection]) each.cut()
  }

  /** Nothing passes between the hosts, or only from one to the other, until `heal`. */
  partition(from?: HostName): void {
    this.scheduler.note(`partition ${from ?? 'both ways'}`)
    if (from !== 'b') this.#blockedFrom.add('a')
    if (from !== 'a') this.#blockedFrom.add('b')
  }

  get partitioned(): boolean {
    return this.#blockedFrom.size > 0
  }

  heal(): void {
    this.scheduler.note('network healed')
    this.#blockedFrom.clear()
    this.#resumeAll()
  }

  /** All present connections, or one, are silent for ever. */
  halfOpen(connection?: Connection): void {
    this.scheduler.note(connection === undefined ? 'all connections half-open' : `${connection.name} half-open`)
    for (const each of connection === undefined ? this.connections : [connection]) each.silent = true
  }

  /** Nothing passes on one connection until `resume`; the others go on: what they carry overtakes it. */
  stall(connection: Connection): void {
    this.scheduler.note(`${connection.name} stalls`)
    connection.stalled = true
  }

  resume(connection: Connection): void {
    this.scheduler.note(`${connection.name} goes on`)
    connection.stalled = false
    for (const end of connection.ends) end.outgoing.schedule(0)
  }

  /** The kernel of the host closes the sockets of a process that is gone. */
  processGone(life: Life): void {
    for (const [host, listener] of this.#listeners) if (listener.life === life) this.#listeners.delete(host)
    for (const connection of [...this.connections]) {
      for (const end of connection.ends) if (end.life === life) end.close()
    }
  }

  /** The host loses its power: its connections vanish without a word. */
  powerOff(host: HostName): void {
    this.#powered.set(host, false)
    this.#listeners.delete(host)
    for (const connection of [...this.connections]) {
      for (const end of connection.ends) if (end.host === host) end.vanish()
    }
  }

  powerOn(host: HostName): void {
    this.#powered.set(host, true)
    this.#resumeAll()
  }

  // ---- what connections ask -------------------------------------------------------------------------------------------

  passes(from: HostName): boolean {
    return !this.#blockedFrom.has(from) && this.#powered.get(otherHost(from)) === true
  }

  drawDelayUs(): number {
    if (this.prng.chance(this.config.longDelayPerMille, 1000)) return this.config.longDelayUs
    return this.prng.intInclusive(this.config.delayUsMin, this.config.delayUsMax)
  }

  /** Most bytes that any link of the host has in its queue. */
  queuedBytesMax(host: HostName): number {
    let most = 0
    for (const connection of this.connections) {
      for (const end of connection.ends) if (end.host === host) most = Math.max(most, end.queuedBytes)
    }
    return most
  }

  #resumeAll(): void {
    for (const connection of this.connections) {
      for (const end of connection.ends) end.outgoing.schedule(this.prng.intInclusive(0, RETRANSMIT_US))
    }
  }

  // ---- connecting -----------------------------------------------------------------------------------------------------

  #listen(host: HostName, life: Life, onLink: (link: Link) => void, onFailure: (reason: string) => void): void {
    if (!life.alive) return
    if (this.#listeners.has(host)) {
      this.scheduler.after(0, `${host} listen failed`, () => {
        if (life.alive) onFailure('address in use')
      })
      return
    }
    this.#listeners.set(host, { life, onLink })
  }

  #connect(request: ConnectRequest): { cancel(): void } {
    const { host, life, timeoutMs, onFailure } = request
    if (!life.alive) return { cancel: () => {} }
    const attempt: ConnectAttempt = { ...request, pending: true, timer: undefined }
    const timeoutUs = Math.max(1, Math.ceil(timeoutMs * 1000))
    attempt.timer = this.scheduler.after(timeoutUs, `${host} connect timed out`, () => {
      if (!attempt.pending) return
      attempt.pending = false
      if (life.alive) onFailure('timed out')
    })
    this.#sendSyn(attempt)
    return {
      cancel: () => {
        attempt.pending = false
        attempt.timer?.cancel()
      },
    }
  }

  #sendSyn(attempt: ConnectAttempt): void {
    const { host } = attempt
    const target = otherHost(host)
    this.scheduler.after(this.drawDelayUs(), `${host} SYN`, () => {
      if (!attempt.pending || !attempt.life.alive) return
      if (!this.passes(host)) this.#onSynLost(attempt)
      else {
        const listener = this.#listeners.get(target)
        if (listener === undefined) this.#refuse(attempt)
        else this.#accept(attempt, listener)
      }
    })
  }

  #onSynLost(attempt: ConnectAttempt): void {
    // A router may say at once that there is no way; most say nothing.
    if (this.prng.chance(1, 4)) this.#fail(attempt, 'host unreachable')
    else {
      this.scheduler.after(RETRANSMIT_US, `${attempt.host} SYN again`, () => {
        if (attempt.pending && attempt.life.alive) this.#sendSyn(attempt)
      })
    }
  }

  #refuse(attempt: ConnectAttempt): void {
    this.scheduler.after(this.drawDelayUs(), `${attempt.host} connection refused`, () => {
      if (this.passes(otherHost(attempt.host))) this.#fail(attempt, 'connection refused')
    })
  }

  #fail(attempt: ConnectAttempt, reason: string): void {
    if (!attempt.pending || !attempt.life.alive) return
    attempt.pending = false
    attempt.timer?.cancel()
    attempt.onFailure(reason)
  }

  /** The kernel of the target completes the handshake; its process hears of the connection a little later. */
  #accept(attempt: ConnectAttempt, listener: Listener): void {
    const connection = new Connection(this, ++this.#connectionCount, {
      host: attempt.host,
      life: attempt.life,
      peerLife: listener.life,
    })
    this.connections.add(connection)
    const [clientEnd, serverEnd] = connection.ends
    this.scheduler.after(this.prng.intInclusive(0, 200), `${serverEnd.name} accepted`, () => {
      if (!serverEnd.isOpen) return
      if (this.#listeners.get(serverEnd.host) === listener && listener.life.alive) listener.onLink(serverEnd)
      else serverEnd.close()
    })
    this.#sendSynAck(attempt, clientEnd)
  }

  #sendSynAck(attempt: ConnectAttempt, clientEnd: SimLink): void {
    this.scheduler.after(this.drawDelayUs(), `${clientEnd.name} connected`, () => {
      if (!attempt.pending || !attempt.life.alive) clientEnd.close()
      else if (!this.passes(otherHost(attempt.host))) {
        this.scheduler.after(RETRANSMIT_US, `${clientEnd.name} SYN-ACK again`, () => {
          this.#sendSynAck(attempt, clientEnd)
        })
      } else if (!clientEnd.isOpen) this.#fail(attempt, 'connection reset')
      else {
        attempt.pending = false
        attempt.timer?.cancel()
        attempt.onUp(clientEnd)
      }
    })
  }
}

interface ConnectRequest {
  readonly host: HostName
  readonly life: Life
  readonly timeoutMs: number
  readonly onUp: (link: Link) => void
  readonly onFailure: (reason: string) => void
}

interface ConnectAttempt extends ConnectRequest {
  pending: boolean
  timer: Scheduled | undefined
}

/** One TCP connection: two ends, two streams. */
export class Connection {
  readonly name: string
  readonly ends: readonly [SimLink, SimLink]
  /** Half-open: nothing passes any more. */
  silent = false
  /** Nothing passes for a while. */
  stalled = false
  /** Cut: what was under way is lost, so nothing may pass behind it, also if the resets meet a partition. */
  broken = false

  constructor(network: SimNetwork, number: number, client: { host: HostName; life: Life; peerLife: Life }) {
    this.name = `#${number}`
    const clientEnd = new SimLink(network, this, client.host, client.life)
    const serverEnd = new SimLink(network, this, otherHost(client.host), client.peerLife)
    clientEnd.outgoing.receiver = serverEnd
    serverEnd.outgoing.receiver = clientEnd
    this.ends = [clientEnd, serverEnd]
  }

  cut(): void {
    this.broken = true
    for (const end of this.ends) {
      end.outgoing.discard()
      end.scheduleReset('connection reset')
    }
  }

  peerOf(end: SimLink): SimLink {
    return end === this.ends[0] ? this.ends[1] : this.ends[0]
  }
}

type Segment = { readonly readyAtUs: number; readonly bytes: Uint8Array } | { readonly readyAtUs: number; fin: true }

/** What is under way from one end to the other. */
class Stream {
  receiver: SimLink | undefined
  /** Bytes under way or waiting unread at the receiver. */
  heldBytes = 0
  readonly #network: SimNetwork
  readonly #sender: SimLink
  #segments: Segment[] = []
  #arrival: Scheduled | undefined
  #lastReadyAtUs = 0

  constructor(network: SimNetwork, sender: SimLink) {
    this.#network = network
    this.#sender = sender
  }

  push(bytes: Uint8Array | undefined): void {
    this.#lastReadyAtUs = Math.max(this.#lastReadyAtUs, this.#network.scheduler.nowUs + this.#network.drawDelayUs())
    const readyAtUs = this.#lastReadyAtUs
    this.#segments.push(bytes === undefined ? { readyAtUs, fin: true } : { readyAtUs, bytes })
    this.schedule(0)
  }

  /** Schedules the arrival of the first segment, at the earliest after `delayUs`. */
  schedule(delayUs: number): void {
    const first = this.#segments[0]
    if (first === undefined || this.#arrival !== undefined) return
    const atUs = Math.max(first.readyAtUs, this.#network.scheduler.nowUs + delayUs)
    const what = 'bytes' in first ? `${first.bytes.length} bytes ${hashBytes(first.bytes)}` : 'FIN'
    this.#arrival = this.#network.scheduler.after(
      atUs - this.#network.scheduler.nowUs,
      `${this.#sender.name} delivers ${what}`,
      () => this.#arrive(),
    )
  }

  discard(): void {
    this.#arrival?.cancel()
    this.#arrival = undefined
    for (const segment of this.#segments) if ('bytes' in segment) this.heldBytes -= segment.bytes.length
    this.#segments = []
  }

  #arrive(): void {
    this.#arrival = undefined
    // Blocked: it stays where it is; whoever removes the obstacle schedules again.
    const { silent, stalled, broken } = this.#sender.connection
    if (silent || stalled || broken || !this.#network.passes(this.#sender.host)) return
    const segment = this.#segments.shift()
    if (segment === undefined) return
    this.schedule(0)
    this.receiver?.receive('bytes' in segment ? segment.bytes : undefined)
  }
}

/** One end of a connection. */
export class SimLink implements Link {
  readonly name: string
  readonly host: HostName
  readonly life: Life
  readonly connection: Connection
  readonly outgoing: Stream
  readonly #network: SimNetwork
  #open = true
  #handler: LinkHandler | undefined
  #paused = false
  /** Sent and not yet handed to the operating system, each with the hash of what it held when it was sent. */
  #queue: { readonly bytes: Uint8Array; readonly hash: number; takenBytes: number }[] = []
  #queuedBytes = 0
  /** Received and not yet read; `undefined` is the end of the stream. */
  #unread: (Uint8Array | undefined)[] = []
  #reads = 0
  #resetReason: string | undefined
  #pumpScheduled = false
  #deliveryScheduled = false

  constructor(network: SimNetwork, connection: Connection, host: HostName, life: Life) {
    this.#network = network
    this.connection = connection
    this.host = host
    this.life = life
    this.name = `net ${host}${connection.name}`
    this.outgoing = new Stream(network, this)
  }

  get isOpen(): boolean {
    return this.#open
  }

  get queuedBytes(): number {
    return this.#queuedBytes
  }

  setHandler(handler: LinkHandler): void {
    this.#handler = handler
    this.#scheduleDelivery()
  }

  send(chunks: readonly Uint8Array[]): void {
    if (!this.#open) return
    for (const bytes of chunks) {
      if (bytes.length === 0) continue
      this.#queue.push({ bytes, hash: hashOf(bytes), takenBytes: 0 })
      this.#queuedBytes += bytes.length
    }
    this.#schedulePump()
  }

  pauseReading(): void {
    this.#paused = true
  }

  resumeReading(): void {
    this.#paused = false
    this.#scheduleDelivery()
  }

  close(): void {
    if (!this.#open) return
    const hadUnread = this.#unread.some((bytes) => bytes !== undefined)
    this.#shut()
    // Like Linux: unread input turns the close into a reset, which overtakes what was sent. Otherwise what the operating
    // system already has still arrives, then the end of the stream.
    if (hadUnread || this.#network.prng.chance(1, 4)) {
      this.outgoing.discard()
      this.connection.peerOf(this).scheduleReset('connection reset by peer')
    } else this.outgoing.push(undefined)
  }

  /** The host lost its power. What it had sent is on its way; nothing more will come. */
  vanish(): void {
    if (this.#open) this.#shut()
  }

  /** A reset is on its way to this end. In a partition it is lost. */
  scheduleReset(reason: string): void {
    this.#network.scheduler.after(this.#network.drawDelayUs(), `${this.name} reset`, () => {
      if (!this.#open || this.connection.silent || !this.#network.passes(otherHost(this.host))) return
      this.#unread = []
      this.outgoing.discard()
      this.#resetReason = reason
      this.#deliver()
    })
  }

  /** Bytes, or the end of the stream, arrive from the other end. */
  receive(bytes: Uint8Array | undefined): void {
    this.#network.onActivity()
    if (this.#open) {
      this.#unread.push(bytes)
      this.#deliver()
      return
    }
    if (bytes === undefined) return
    this.#incoming.heldBytes -= bytes.length
    // Nobody is here: the kernel says so, unless its host is off (then nothing arrives at all).
    this.connection.peerOf(this).scheduleReset('connection reset by peer')
  }

  get #incoming(): Stream {
    return this.connection.peerOf(this).outgoing
  }

  #shut(): void {
    this.#open = false
    this.#handler = undefined
    this.#queue = []
    this.#queuedBytes = 0
    for (const bytes of this.#unread) this.#incoming.heldBytes -= bytes?.length ?? 0
    this.#unread = []
    if (!this.connection.peerOf(this).isOpen) this.#network.connections.delete(this.connection)
    this.#network.onActivity()
  }

  // ---- sending --------------------------------------------------------------------------------------------------------

  #schedulePump(): void {
    if (this.#pumpScheduled || this.#queue.length === 0) return
    this.#pumpScheduled = true
    const delayUs = this.#network.prng.intInclusive(0, PUMP_DELAY_US_MAX)
    this.#network.scheduler.after(delayUs, `${this.name} sends`, () => {
      this.#pumpScheduled = false
      if (this.#open) this.#pump()
    })
  }

  /** Hands as much as fits to the operating system. */
  #pump(): void {
    const room = this.#network.config.bufferBytes - this.outgoing.heldBytes
    const bytes = this.#takeQueued(room)
    this.outgoing.heldBytes += bytes.length
    const segmentBytesMax = Math.max(this.#network.config.segmentBytesMax, Math.ceil(bytes.length / BULK_SEGMENTS))
    for (let at = 0; at < bytes.length; ) {
      const segmentBytes = Math.min(this.#drawSegmentBytes(segmentBytesMax), bytes.length - at)
      this.outgoing.push(bytes.subarray(at, at + segmentBytes))
      at += segmentBytes
    }
    if (bytes.length > 0 && this.#queue.length === 0) this.#handler?.onDrain()
  }

  #takeQueued(lengthBytesMax: number): Uint8Array {
    const taken = new Uint8Array(Math.min(lengthBytesMax, this.#queuedBytes))
    let filled = 0
    while (filled < taken.length) {
      const first = this.#queue[0]
      assert(first !== undefined, `${this.name}: ${this.#queuedBytes} bytes queued but no buffer`)
      const part = first.bytes.subarray(first.takenBytes, first.takenBytes + taken.length - filled)
      taken.set(part, filled)
      filled += part.length
      first.takenBytes += part.length
      if (first.takenBytes < first.bytes.length) break
      this.#queue.shift()
      if (hashOf(first.bytes) !== first.hash) {
        const what = `a buffer of ${first.bytes.length} bytes changed while queued`
        this.#network.report('link-contract', `${this.name}: ${what}`)
      }
    }
    this.#queuedBytes -= filled
    return taken
  }

  /** Borders anywhere: often large pieces, sometimes a few bytes, so that every parser sees every split. */
  #drawSegmentBytes(segmentBytesMax: number): number {
    const prng = this.#network.prng
    if (prng.chance(1, 8)) return prng.intInclusive(1, 24)
    return prng.intInclusive(1, segmentBytesMax)
  }

  // ---- receiving ------------------------------------------------------------------------------------------------------

  #scheduleDelivery(): void {
    if (this.#deliveryScheduled || !this.#open) return
    if (this.#unread.length === 0 && this.#resetReason === undefined) return
    this.#deliveryScheduled = true
    this.#network.scheduler.after(this.#network.prng.intInclusive(0, 50), `${this.name} readable`, () => {
      this.#deliveryScheduled = false
      this.#deliver()
    })
  }

  #deliver(): void {
    while (this.#open && this.#handler !== undefined) {
      const handler = this.#handler
      if (this.#resetReason !== undefined) {
        this.#shut()
        handler.onClose(this.#resetReason)
        return
      }
      if (this.#paused || this.#unread.length === 0) return
      const bytes = this.#takeUnread()
      if (bytes === undefined) {
        this.#shut()
        // Both directions end with the first one: the replication protocol knows no half-closed connection.
        this.outgoing.discard()
        handler.onClose('closed by peer')
        return
      }
      this.#incoming.heldBytes -= bytes.length
      this.connection.peerOf(this).#schedulePump()
      this.#hand(handler, bytes)
    }
  }

  /** Now as a chunk whose memory is the link's again afterwards, now into the handler's memory. */
  #hand(handler: LinkHandler, bytes: Uint8Array): void {
    this.#reads++
    if (this.#reads % 2 === 0 || handler.target === undefined) {
      handler.onData(bytes)
      bytes.fill(POISON)
      return
    }
    for (let at = 0; at < bytes.length && this.#open; ) {
      if (this.#paused) {
        this.#unread.unshift(bytes.subarray(at))
        this.#incoming.heldBytes += bytes.length - at
        return
      }
      const target = handler.target()
      const lengthBytes = Math.min(target.length, bytes.length - at)
      target.set(bytes.subarray(at, at + lengthBytes))
      at += lengthBytes
      handler.onFilled?.(lengthBytes)
    }
  }

  /** One read: a segment or several, in memory that does not start where its buffer starts. */
  #takeUnread(): Uint8Array | undefined {
    const first = this.#unread.shift()
    if (first === undefined) return undefined
    const parts = [first]
    let lengthBytes = first.length
    while (this.#unread[0] !== undefined && this.#network.prng.chance(1, 2)) {
      const next = this.#unread.shift() as Uint8Array
      parts.push(next)
      lengthBytes += next.length
    }
    const before = this.#network.prng.intInclusive(0, 9)
    const bytes = new Uint8Array(new ArrayBuffer(before + lengthBytes + 3), before, lengthBytes)
    let filled = 0
    for (const part of parts) {
      bytes.set(part, filled)
      filled += part.length
    }
    return bytes
  }
}
