// Getting the two TCP streams of a connection (wire-protocol.md 1.2). Both hosts dial and accept at once until each has a
// data and a meta stream; which stream a TCP connection is, its first packet tells. The host that accepted the meta stream
// holds the resolve-conflicts flag.
//
// The kernel does this in a loop with a coin flip against crossed attempts; here it is driven by events, and the coin flip
// is a random pause before dialling again.

import { LineLimit, STRANGER_LINES } from '../base/line-limit.ts'
import type { Packet } from '../wire/drbd/packets.ts'
import type { Engine } from './engine.ts'
import type { SocketId } from './events.ts'
import { RECONNECT_PAUSE_MS } from './limits.ts'

export interface SocketPair {
  readonly data: SocketId
  readonly meta: SocketId
  readonly resolveConflicts: boolean
}

export class Connector {
  readonly #engine: Engine
  readonly #onPair: (pair: SocketPair) => void
  #running = false
  #dialling = false
  #data: SocketId | undefined
  #meta: SocketId | undefined
  #resolveConflicts = false
  /** Accepted, first packet outstanding. */
  readonly #strangers = new Set<SocketId>()
  readonly #strangerLines = new LineLimit(STRANGER_LINES)

  constructor(engine: Engine, onPair: (pair: SocketPair) => void) {
    this.#engine = engine
    this.#onPair = onPair
  }

  get running(): boolean {
    return this.#running
  }

  start(): void {
    if (this.#running) return
    this.#running = true
    this.#engine.emit({ type: 'socket.listen' })
    this.#dial()
  }

  stop(): void {
    if (!this.#running) return
    this.#running = false
    const { timers } = this.#engine
    timers.clear('dial')
    timers.clear('settle')
    this.#engine.emit({ type: 'socket.unlisten' })
    if (this.#dialling) this.#engine.emit({ type: 'socket.cancel-connect' })
    this.#dialling = false
    for (const socket of this.#strangers) this.#close(socket)
    this.#strangers.clear()
    if (this.#data !== undefined) this.#close(this.#data)
    if (this.#meta !== undefined) this.#close(this.#meta)
    this.#data = undefined
    this.#meta = undefined
  }

  onConnected(socket: SocketId): void {
    this.#dialling = false
    if (!this.#running) {
      this.#close(socket)
      return
    }
    this.#engine.emit({ type: 'socket.context', socket, context: this.#engine.connection.handshakeContext })
    if (this.#data === undefined) {
      this.#data = socket
      this.#engine.emit({ type: 'socket.send', socket, packet: { type: 'P_INITIAL_DATA', volume: 0 } })
      // The peer opens the meta stream as soon as it sees this one; if it does not, dial again.
      if (this.#meta === undefined) this.#dialLater()
      else this.#maybeSettle()
    } else if (this.#meta === undefined) {
      this.#meta = socket
      this.#resolveConflicts = false
      this.#engine.emit({ type: 'socket.send', socket, packet: { type: 'P_INITIAL_META', volume: 0 } })
      this.#maybeSettle()
    } else this.#close(socket)
  }

  onConnectFailed(): void {
    this.#dialling = false
    if (this.#running) this.#dialLater()
  }

  onAccepted(socket: SocketId): void {
    if (!this.#running) {
      this.#close(socket)
      return
    }
    this.#engine.emit({ type: 'socket.context', socket, context: this.#engine.connection.handshakeContext })
    this.#strangers.add(socket)
    const { timers, nowMs, settings } = this.#engine
    const patienceMs = 4 * settings.pingTimeoutMs
    timers.set(`stranger-${socket}`, nowMs + patienceMs, () => {
      if (!this.#strangers.delete(socket)) return
      this.tellOfStranger(`no packet came within ${patienceMs} ms`)
      this.#close(socket)
    })
  }

  tellOfStranger(what: string): void {
    const text = `a stranger on the replication port: ${what}; it was closed`
    const line = this.#strangerLines.admit(text, this.#engine.nowMs)
    if (line !== undefined) this.#engine.log('warn', line)
  }

  /** Accepted, and its first packet has not come yet. */
  isStranger(socket: SocketId): boolean {
    return this.#strangers.has(socket)
  }

  /** The first packet of an accepted connection. */
  onPacket(socket: SocketId, packet: Packet): void {
    if (!this.#strangers.delete(socket)) return
    this.#engine.timers.clear(`stranger-${socket}`)
    switch (packet.type) {
      case 'P_INITIAL_DATA':
        this.#onInitialData(socket)
        break
      case 'P_INITIAL_META':
        this.#onInitialMeta(socket)
        break
      default:
        this.tellOfStranger(
          `it sent ${packet.type === 'unknown' ? `command ${packet.command}` : packet.type} as its first packet`,
        )
        this.#close(socket)
    }
  }

  onClosed(socket: SocketId, reason: string): void {
    this.#engine.timers.clear(`stranger-${socket}`)
    if (this.#strangers.delete(socket)) return
    if (socket !== this.#data && socket !== this.#meta) return
    this.#engine.log('debug', `connection attempt ended: ${reason}`)
    if (socket === this.#data) this.#data = undefined
    else this.#meta = undefined
    this.#engine.timers.clear('settle')
    this.#dialLater(this.#engine.entropy.u32() % RECONNECT_PAUSE_MS)
  }

  #onInitialData(socket: SocketId): void {
    if (this.#data !== undefined) {
      // Crossed: both dialled at once. Keep the newer; a random pause makes it unlikely to happen again.
      this.#close(this.#data)
      this.#data = socket
      this.#dialLater(this.#engine.entropy.u32() % RECONNECT_PAUSE_MS)
      return
    }
    this.#data = socket
    // After a crossed attempt the meta stream of before may still be good.
    if (this.#meta === undefined) this.#dial()
    else this.#maybeSettle()
  }

  #onInitialMeta(socket: SocketId): void {
    if (this.#data === undefined) {
      this.#close(socket)
      return
    }
    if (this.#meta !== undefined) this.#close(this.#meta)
    this.#meta = socket
    this.#resolveConflicts = true
    this.#maybeSettle()
  }

  /** Both streams are there: they are good if they survive a short while (1.2 step 3). */
  #maybeSettle(): void {
    if (this.#data === undefined || this.#meta === undefined) return
    const { timers, nowMs, settings } = this.#engine
    timers.clear('dial')
    const settleMs = settings.socketCheckTimeoutMs || settings.pingTimeoutMs
    timers.set('settle', nowMs + settleMs, () => this.#finish())
  }

  #finish(): void {
    if (this.#data === undefined || this.#meta === undefined) return
    const pair = { data: this.#data, meta: this.#meta, resolveConflicts: this.#resolveConflicts }
    this.#data = undefined
    this.#meta = undefined
    this.stop()
    this.#onPair(pair)
  }

  #dial(): void {
    this.#engine.timers.clear('dial')
    if (this.#dialling || (this.#data !== undefined && this.#meta !== undefined)) return
    this.#dialling = true
    this.#engine.emit({ type: 'socket.connect', timeoutMs: this.#engine.settings.connectIntMs })
  }

  #dialLater(pauseMs?: number): void {
    const { timers, nowMs, settings, entropy } = this.#engine
    const seventh = Math.floor(settings.connectIntMs / 7)
    const pause = pauseMs ?? settings.connectIntMs - seventh + (entropy.u32() % (2 * seventh + 1))
    timers.set('dial', nowMs + pause, () => this.#dial())
  }

  #close(socket: SocketId): void {
    this.#engine.emit({ type: 'socket.close', socket })
  }
}
