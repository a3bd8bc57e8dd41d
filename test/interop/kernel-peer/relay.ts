// The network between coprime and the guest: two links, one for each side that may connect. It can be slow, stand still,
// break, refuse, and alter what passes.

import { createConnection, createServer, type Server, type Socket } from 'node:net'

export type Side = 'coprime' | 'kernel'

/** Sees, and may alter in place, each chunk as it arrives. */
export type Tamper = (from: Side, chunk: Buffer) => void

/** Sees what passes on each connection, and by whom it was opened (`chunk` undefined). */
export type Watch = (connection: number, from: Side, chunk: Buffer | undefined) => void

/** By when a side that is turned away has noticed. */
const TURN_AWAY_MS = 2000

interface Item {
  readonly dueMs: number
  readonly chunk: Buffer | undefined
}

export class Relay {
  readonly #servers: Server[] = []
  readonly #pipes = new Set<Pipe>()
  readonly #delayMs: Record<Side, number> = { coprime: 0, kernel: 0 }
  readonly #stopped = new Set<Side>()
  /** Sides whose connections are refused. */
  readonly #refused = new Set<Side>()
  tamper: Tamper | undefined
  /** Stays over `heal`. */
  watch: Watch | undefined
  #connections = 0
  /** Bytes that each side has sent. */
  readonly sentBytes: Record<Side, number> = { coprime: 0, kernel: 0 }

  /** Where `from` has to connect to in order to reach `targetPort`. */
  async link(from: Side, targetPort: number): Promise<number> {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) =>
      this.#accept(from, targetPort, socket),
    )
    this.#servers.push(server)
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(0, '127.0.0.1', resolve)
    })
    const address = server.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    return address.port
  }

  delayMs(from: Side): number {
    return this.#delayMs[from]
  }

  isStopped(from: Side): boolean {
    return this.#stopped.has(from)
  }

  /** What each side sends arrives so much later. */
  delay(ms: number): void {
    this.#delayMs.coprime = ms
    this.#delayMs.kernel = ms
  }

  /** Nothing that this side sends arrives any more, and nobody is told: a link that has gone silent. */
  silence(from: Side): void {
    this.#stopped.add(from)
  }

  /** This side cannot connect any more; what it has stays. */
  refuse(from: Side): void {
    this.#refused.add(from)
  }

  /** Connections are reset; new ones are refused until `heal`. */
  cut(): void {
    this.refuse('coprime')
    this.refuse('kernel')
    this.reset()
  }

  reset(): void {
    for (const pipe of [...this.#pipes]) pipe.break()
  }

  /** Everything is as at the beginning; what stood still goes on. */
  heal(): void {
    this.#refused.clear()
    this.tamper = undefined
    this.delay(0)
    this.#stopped.clear()
    for (const pipe of this.#pipes) pipe.pump()
  }

  close(): void {
    for (const server of this.#servers) server.close()
    this.reset()
  }

  #accept(from: Side, targetPort: number, socket: Socket): void {
    if (this.#refused.has(from)) {
      turnAway(socket)
      return
    }
    const target = createConnection({ host: '127.0.0.1', port: targetPort, allowHalfOpen: true, noDelay: true })
    const to: Side = from === 'coprime' ? 'kernel' : 'coprime'
    const connection = ++this.#connections
    this.watch?.(connection, from, undefined)
    const pipes = [
      new Pipe(this, from, connection, { source: socket, target }),
      new Pipe(this, to, connection, { source: target, target: socket }),
    ]
    let left = 2
    let connected = false
    target.on('connect', () => {
      connected = true
    })
    const end = (error: Error | undefined): void => {
      for (const pipe of pipes) this.#pipes.delete(pipe)
      if (!connected) {
        target.destroy()
        if (!socket.destroyed) turnAway(socket)
        return
      }
      for (const one of [socket, target]) {
        if (one.destroyed) continue
        if (error === undefined) one.destroy()
        else one.resetAndDestroy()
      }
    }
    for (const one of [socket, target]) {
      one.on('error', end)
      one.on('close', () => {
        left -= 1
        if (left === 0) end(undefined)
      })
    }
    for (const pipe of pipes) this.#pipes.add(pipe)
  }
}

/**
 * For "connection refused", which cannot be had any more: the emulator or this relay has accepted already. An end, not a reset: a
 * kernel whose first packet meets a reset is in the state BrokenPipe from then on, in which it does look for its peer.
 */
function turnAway(socket: Socket): void {
  socket.removeAllListeners('data')
  socket.on('error', () => {})
  socket.resume()
  socket.end()
  setTimeout(() => socket.destroy(), TURN_AWAY_MS).unref()
}

/** One direction of one connection. Nothing in it is lost or reordered. */
class Pipe {
  readonly #relay: Relay
  readonly #from: Side
  readonly #target: Socket
  readonly #source: Socket
  readonly #items: Item[] = []
  #timer: NodeJS.Timeout | undefined

  constructor(
    relay: Relay,
    from: Side,
    connection: number,
    ends: { readonly source: Socket; readonly target: Socket },
  ) {
    const { source, target } = ends
    this.#relay = relay
    this.#from = from
    this.#source = source
    this.#target = target
    source.on('data', (chunk: Buffer) => {
      relay.sentBytes[from] += chunk.length
      relay.tamper?.(from, chunk)
      relay.watch?.(connection, from, chunk)
      this.#add(chunk)
    })
    source.on('end', () => this.#add(undefined))
  }

  pump(): void {
    if (this.#timer !== undefined || this.#relay.isStopped(this.#from)) return
    for (let item = this.#items[0]; item !== undefined; item = this.#items[0]) {
      const waitMs = item.dueMs - performance.now()
      if (waitMs > 0) {
        this.#timer = setTimeout(() => {
          this.#timer = undefined
          this.pump()
        }, waitMs)
        return
      }
      this.#items.shift()
      if (this.#target.destroyed) return
      if (item.chunk === undefined) this.#target.end()
      else this.#target.write(item.chunk)
    }
  }

  break(): void {
    clearTimeout(this.#timer)
    this.#items.length = 0
    this.#source.resetAndDestroy()
    this.#target.resetAndDestroy()
  }

  #add(chunk: Buffer | undefined): void {
    this.#items.push({ dueMs: performance.now() + this.#relay.delayMs(this.#from), chunk })
    this.pump()
  }
}
