// Two engines back to back: TCP streams as queues of packets that keep order in themselves and none between each other. The
// test decides which packets are held back, and in property tests in which order everything happens.

import assert from 'node:assert/strict'
import type { SocketId } from '../../src/engine/events.ts'
import type { Packet } from '../../src/wire/drbd/packets.ts'
import { EngineHost, type HostNetwork, type HostOptions } from './engine-driver.ts'

type Stream = 'data' | 'meta' | 'new'

/** One direction of a TCP connection. */
interface Direction {
  readonly from: EngineHost
  readonly to: EngineHost
  readonly fromSocket: SocketId
  readonly toSocket: SocketId
  readonly queue: (Packet | 'closed')[]
  readonly back: () => Direction
  open: boolean
  closedHere: boolean
  stream: Stream
}

export interface HeadOfStream {
  readonly from: EngineHost
  readonly stream: Stream
  readonly packet: Packet | 'closed'
}

export class TestNetwork implements HostNetwork {
  readonly a: EngineHost
  readonly b: EngineHost
  /** Packets for which it is true stay at the head of their stream, and all behind them. */
  hold: (head: HeadOfStream) => boolean = () => false
  mayDial: (host: EngineHost) => boolean = () => true
  /** Completions of held disk jobs are among the things that may happen. */
  completesHeldJobs = false
  /** Chooses the next of several possible things. */
  pick: (count: number) => number = () => 0
  readonly #directions: Direction[] = []
  readonly #dialling = new Set<EngineHost>()
  readonly #listening = new Set<EngineHost>()
  #nextSocket = 1

  constructor(a: EngineHost, b: EngineHost) {
    this.a = a
    this.b = b
    a.network = this
    b.network = this
  }

  peerOf(host: EngineHost): EngineHost {
    return host === this.a ? this.b : this.a
  }

  connect(host: EngineHost): void {
    this.#dialling.add(host)
  }

  cancel(host: EngineHost): void {
    this.#dialling.delete(host)
  }

  listen(host: EngineHost): void {
    this.#listening.add(host)
  }

  unlisten(host: EngineHost): void {
    this.#listening.delete(host)
  }

  send(host: EngineHost, socket: SocketId, packet: Packet): void {
    const direction = this.#directions.find((one) => one.from === host && one.fromSocket === socket)
    assert.ok(direction?.closedHere === false, `${host.name} sends ${packet.type} on a stream that it has not closed`)
    if (!direction.open) return // the other end is gone, this one has not heard of it yet
    if (packet.type === 'P_INITIAL_DATA') this.#name(direction, 'data')
    if (packet.type === 'P_INITIAL_META') this.#name(direction, 'meta')
    direction.queue.push(packet)
  }

  close(host: EngineHost, socket: SocketId): void {
    const direction = this.#directions.find((one) => one.from === host && one.fromSocket === socket)
    if (direction === undefined) return
    direction.closedHere = true
    if (!direction.open) return
    direction.open = false
    direction.queue.push('closed')
    const back = direction.back()
    back.open = false
    back.queue.length = 0
  }

  /** Cuts the cable: both ends hear of it, everything on the way is lost. */
  cut(): void {
    for (const direction of this.#directions) {
      if (!direction.open) continue
      direction.open = false
      direction.queue.length = 0
      direction.queue.push('closed')
    }
  }

  /** A connection is cut and one of the hosts does not know it yet. */
  get isBreaking(): boolean {
    return this.#directions.some(({ queue }) => queue.includes('closed'))
  }

  /** Waiting packets of a host, oldest first. */
  waiting(from: EngineHost, stream: Stream): string[] {
    return this.#directions
      .filter((one) => one.from === from && one.stream === stream)
      .flatMap((one) => one.queue.map((packet) => (packet === 'closed' ? packet : packet.type)))
  }

  /** Lets everything happen that may happen, or one thing of it. */
  run(stepsMax = 100_000): number {
    let steps = 0
    for (; steps < stepsMax; steps++) {
      const possible = this.#possible()
      if (possible.length === 0) return steps
      ;(possible[this.pick(possible.length)] as () => void)()
    }
    assert.ok(stepsMax < 100_000, 'the network comes to rest')
    return steps
  }

  /** Lets time pass on both hosts, with everything that may happen in between. */
  advance(ms: number): void {
    const until = this.a.nowMs + ms
    this.run()
    for (;;) {
      const next = Math.min(this.a.engine.timers.earliestMs, this.b.engine.timers.earliestMs)
      if (next > until) break
      for (const host of [this.a, this.b]) host.nowMs = Math.max(host.nowMs, next)
      for (const host of [this.a, this.b]) if (host.engine.timers.earliestMs <= next) host.event({ type: 'tick' })
      this.run()
    }
    this.a.nowMs = until
    this.b.nowMs = until
  }

  #name(direction: Direction, stream: Stream): void {
    direction.stream = stream
    direction.back().stream = stream
  }

  #possible(): (() => void)[] {
    const possible: (() => void)[] = []
    for (const host of this.#dialling) {
      if (this.mayDial(host)) possible.push(() => this.#dial(host))
    }
    if (this.completesHeldJobs) {
      for (const host of [this.a, this.b]) for (const job of host.jobs) possible.push(() => host.completeJob(job))
    }
    for (const direction of this.#directions) {
      const packet = direction.queue[0]
      if (packet === undefined || this.hold({ from: direction.from, stream: direction.stream, packet })) continue
      if (packet !== 'closed' && !direction.to.engine.connection.mayReceive(direction.toSocket)) continue
      possible.push(() => this.#deliver(direction))
    }
    return possible
  }

  #dial(host: EngineHost): void {
    this.#dialling.delete(host)
    const to = this.peerOf(host)
    if (!this.#listening.has(to)) {
      host.event({ type: 'socket.connect-failed', reason: 'connection refused' })
      return
    }
    const fromSocket = this.#nextSocket++
    const toSocket = this.#nextSocket++
    const out: Direction = {
      from: host,
      to,
      fromSocket,
      toSocket,
      queue: [],
      back: () => home,
      open: true,
      closedHere: false,
      stream: 'new',
    }
    const home: Direction = {
      ...out,
      from: to,
      to: host,
      fromSocket: toSocket,
      toSocket: fromSocket,
      queue: [],
      back: () => out,
    }
    this.#directions.push(out, home)
    to.event({ type: 'socket.accepted', socket: toSocket })
    host.event({ type: 'socket.connected', socket: fromSocket })
  }

  #deliver(direction: Direction): void {
    const packet = direction.queue.shift()
    if (packet === 'closed') {
      direction.back().open = false
      direction.to.event({ type: 'socket.closed', socket: direction.toSocket, reason: 'closed by the other side' })
    } else if (packet !== undefined) {
      direction.to.event({ type: 'socket.packet', socket: direction.toSocket, packet })
    }
  }
}

/** Two attached hosts, connected; `flag`: who holds the resolve-conflicts flag. */
export class Pair {
  readonly a: EngineHost
  readonly b: EngineHost
  readonly network: TestNetwork

  constructor(options: { readonly a?: HostOptions; readonly b?: HostOptions; readonly both?: HostOptions } = {}) {
    this.a = new EngineHost({ ...options.both, ...options.a, name: 'a', seed: 11 })
    this.b = new EngineHost({ ...options.both, ...options.b, name: 'b', seed: 22 })
    this.network = new TestNetwork(this.a, this.b)
    this.a.attach()
    this.b.attach()
  }

  /** The holder of the flag opens the data stream, the other one the meta stream. */
  connect(flag: 'a' | 'b' = 'a'): void {
    const holder = flag === 'a' ? this.a : this.b
    const other = this.network.peerOf(holder)
    this.network.mayDial = (host) => host === holder
    for (const host of [this.a, this.b])
      if (host.engine.connection.conn === 0) host.admin({ type: 'connect', discardMyData: false })
    this.network.run()
    this.network.mayDial = () => true
    this.network.run()
    this.network.advance(this.a.settings.socketCheckTimeoutMs)
    assert.equal(holder.engine.connection.resolveConflicts, true)
    assert.equal(other.engine.connection.resolveConflicts, false)
  }

  /** Both hosts Primary, everything at rest. */
  promoteBoth(): void {
    for (const host of [this.a, this.b]) {
      host.event({ type: 'admin', id: 1_000_000, command: { type: 'primary', force: false } })
      this.network.run()
      assert.deepEqual(host.results.get(1_000_000), { code: 0, text: '' })
    }
    this.take()
  }

  take(): void {
    this.a.take()
    this.b.take()
  }
}
