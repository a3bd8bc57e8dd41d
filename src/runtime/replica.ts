// A replica: the engine, the codecs and the ports put together. The same file runs in the daemon and in the simulator. It
// carries out the engine's effects in order, turns completions into events, cuts large client requests into pieces that fit
// one packet, and bounds what is in flight.

import type { BufferPool } from '../base/buffer-pool.ts'
import { AppError } from '../base/errors.ts'
import type { DiskOp, Effect } from '../engine/effects.ts'
import { Engine, type EngineOptions } from '../engine/engine.ts'
import type { EngineEvent, OpenedDevices, SocketId } from '../engine/events.ts'
import { encodePacket, type WireContext } from '../wire/drbd/codec.ts'
import { Framer } from '../wire/drbd/framer.ts'
import type {
  AdminCommand,
  AdminResult,
  ClientDone,
  ClientError,
  ClientRequest,
  ReplicaApi,
  ReplicaPorts,
  ResourceSettings,
  ResourceStatus,
  VolumeDevices,
} from './api.ts'
import type { PacketWatcher, Stream } from './packet-trace.ts'
import type { DiskError, Link } from './ports.ts'

/** Above this many bytes waiting in the framer of a stream that may not be read on, the link itself is paused. */
const BUFFERED_BYTES_MAX = 1024 * 1024

interface Socket {
  readonly id: SocketId
  readonly link: Link
  readonly framer: Framer
  context: WireContext
  /** Encoded packets of this turn. */
  out: Uint8Array[]
  /** Data that was read for the peer, since the link last had nothing left to send. */
  readonly sentData: Uint8Array[]
  paused: boolean
  closed: boolean
}

interface OpenVolume extends VolumeDevices {
  /** Ordered and not complete: told so when the devices are closed under them. */
  readonly pending: Set<DiskOp>
}

/** A client request, cut into one or more pieces for the engine. */
interface PendingRequest {
  readonly done: ClientDone
  readonly bytes: number
  piecesLeft: number
  error: ClientError | undefined
  readonly data: Uint8Array[]
  dataUnused: boolean
}

interface Piece {
  readonly request: PendingRequest
  readonly index: number
}

/** Buffers that are remembered until they have been sent. */
const SENT_DATA_MAX = 1024

const CLOSED: DiskError = { code: 'gone', message: 'the device is closed' }

const H80_CONTEXT: WireContext = { apv: 80, features: 0, integrityBytes: 0 }

export class Replica implements ReplicaApi {
  readonly engine: Engine
  readonly #settings: ResourceSettings
  readonly #ports: ReplicaPorts
  /** For payloads that are received. */
  readonly #pool: BufferPool
  readonly #sockets = new Map<SocketId, Socket>()
  readonly #devices = new Map<number, OpenVolume>()
  readonly #pieces = new Map<number, Piece>()
  readonly #commands = new Map<number, (result: AdminResult) => void>()
  readonly #events: EngineEvent[] = []
  readonly #touched = new Set<Socket>()
  #packetsSent = 0
  #packetsReceived = 0
  #packetWatcher: PacketWatcher | undefined
  #running = false
  #abandoned = false
  #nextId = 1
  #inFlightBytes = 0
  #admissionCalls: (() => void)[] = []
  #connecting: { cancel(): void } | undefined
  #alarm: { cancel(): void } | undefined
  #alarmAtMs = Number.POSITIVE_INFINITY
  /** The engine's time never goes back, and an alarm that rings a rounding error early counts as on time. */
  #nowMs = Number.NEGATIVE_INFINITY

  constructor(settings: ResourceSettings, ports: ReplicaPorts, options: EngineOptions = {}) {
    this.#settings = settings
    this.#ports = ports
    this.#pool = ports.buffers
    this.engine = new Engine(settings, ports, options)
  }

  // ---- clients -----------------------------------------------------------------------------------------------------------------

  submit(request: ClientRequest, done: ClientDone): void {
    if (request.type === 'flush') {
      this.#submitPieces(pendingRequest(done, 0, 1), [{ type: 'client.flush', id: 0, volume: request.volume }])
      return
    }
    const sectors = request.type === 'write' ? request.data.length / 512 : request.sectors
    const volume = this.engine.volumeOf(request.volume)
    if (volume === undefined || !Number.isInteger(sectors) || !volume.inRange(request.sector, sectors)) {
      this.#answerLater(done, {
        code: 'out-of-range',
        message: `sectors ${request.sector}+${sectors} are outside of volume ${request.volume}`,
      })
      return
    }
    if (sectors === 0) {
      this.#answerLater(done, undefined)
      return
    }
    const events = this.#cut(request, sectors)
    const bytes = request.type === 'zero' ? 0 : sectors * 512
    this.#submitPieces(pendingRequest(done, bytes, events.length), events)
  }

  /**
   * Data in flight is bounded, and so is what the network has not taken yet: under protocol A a write is answered while
   * its packet still waits to be sent.
   */
  get admits(): boolean {
    const max = this.#settings.inFlightBytesMax
    if (this.#inFlightBytes >= max) return false
    for (const socket of this.#sockets.values()) if (socket.link.queuedBytes >= max) return false
    return true
  }

  onAdmission(call: () => void): void {
    this.#admissionCalls.push(call)
  }

  /** Pieces that fit one packet. */
  #cut(request: Exclude<ClientRequest, { type: 'flush' }>, sectors: number): EngineEvent[] {
    const { writeBytes, zeroBytes } = this.engine.pieceLimits
    const max = (request.type === 'zero' && zeroBytes > 0 ? zeroBytes : writeBytes) / 512
    const events: EngineEvent[] = []
    for (let at = 0; at < sectors; at += max) {
      const count = Math.min(max, sectors - at)
      const common = { id: 0, volume: request.volume, sector: request.sector + at }
      if (request.type === 'read') events.push({ type: 'client.read', ...common, sectors: count })
      else if (request.type === 'write') {
        const data = count === sectors ? request.data : request.data.subarray(at * 512, (at + count) * 512)
        events.push({ type: 'client.write', ...common, data, fua: request.fua })
      } else events.push({ type: 'client.zero', ...common, sectors: count, unmap: request.unmap, fua: request.fua })
    }
    return events
  }

  #submitPieces(request: PendingRequest, events: readonly EngineEvent[]): void {
    this.#inFlightBytes += request.bytes
    for (const [index, event] of events.entries()) {
      const id = this.#nextId++
      this.#pieces.set(id, { request, index })
      this.#events.push({ ...event, id } as EngineEvent)
    }
    this.#run()
  }

  #onClientDone(effect: Extract<Effect, { type: 'client.done' }>): void {
    const { id, error, data } = effect
    const piece = this.#pieces.get(id)
    if (piece === undefined) return
    this.#pieces.delete(id)
    const { request } = piece
    if (error !== undefined) request.error ??= error
    if (data !== undefined) request.data[piece.index] = data
    if (!effect.dataUnused) request.dataUnused = false
    if (--request.piecesLeft > 0) return
    this.#inFlightBytes -= request.bytes
    if (request.error !== undefined) request.done(request.error, undefined, request.dataUnused)
    else request.done(undefined, request.data, request.dataUnused)
    this.#maybeAdmit()
  }

  #maybeAdmit(): void {
    if (this.#admissionCalls.length > 0 && this.admits) for (const call of this.#admissionCalls.splice(0)) call()
  }

  #answerLater(done: ClientDone, error: ClientError | undefined): void {
    this.#ports.clock.wakeAt(this.#ports.clock.nowMs(), () => done(error, [], true))
  }

  // ---- administration --------------------------------------------------------------------------------------------------------------

  command(command: AdminCommand, done: (result: AdminResult) => void): void {
    const id = this.#nextId++
    this.#commands.set(id, done)
    this.#events.push({ type: 'admin', id, command })
    this.#run()
  }

  /** How many exports are open; a device in use cannot be demoted. */
  setOpeners(count: number): void {
    this.engine.deviceInUse = count > 0
  }

  watchPackets(watcher: PacketWatcher | undefined): void {
    this.#packetWatcher = watcher
  }

  status(): ResourceStatus {
    const packets = { sent: this.#packetsSent, received: this.#packetsReceived }
    return { ...this.engine.status(), inFlightBytes: this.#inFlightBytes, packets }
  }

  abandon(): void {
    this.#abandoned = true
    this.#alarm?.cancel()
    this.#connecting?.cancel()
    this.#ports.network.stopListening()
    for (const socket of this.#sockets.values()) socket.link.close()
    for (const devices of this.#devices.values()) closeDevices(devices)
    this.#sockets.clear()
    this.#devices.clear()
  }

  // ---- the loop ------------------------------------------------------------------------------------------------------------------

  /** Handles all events at hand, then sends what they produced: one write per stream and turn. */
  #run(): void {
    if (this.#running || this.#abandoned) return
    this.#running = true
    const now = Math.max(this.#ports.clock.nowMs(), this.#nowMs)
    this.#nowMs = now
    do {
      for (let i = 0; i < this.#events.length; i++) this.#step(this.#events[i] as EngineEvent, now)
      this.#events.length = 0
      this.#takePackets(now)
    } while (this.#events.length > 0)
    this.#running = false
    this.#sendAll()
    this.#setAlarm()
  }

  #step(event: EngineEvent, now: number): void {
    for (const effect of this.engine.step(event, now)) {
      if (this.#abandoned) return
      this.#perform(effect)
    }
  }

  /** Takes packets from the streams as long as the engine lets them go on. */
  #takePackets(now: number): void {
    for (let progress = true; progress; ) {
      progress = false
      for (const socket of [...this.#sockets.values()]) {
        while (!socket.closed && this.engine.connection.mayReceive(socket.id)) {
          const packet = this.#nextPacket(socket, now)
          if (packet === undefined) break
          progress = true
          this.#packetsReceived++
          this.#packetWatcher?.('received', this.#streamOf(socket), packet, this.#ports.clock.nowMs())
          this.#step({ type: 'socket.packet', socket: socket.id, packet }, now)
        }
      }
    }
    for (const socket of this.#sockets.values()) this.#applyBackPressure(socket)
  }

  #streamOf(socket: Socket): Stream {
    return this.engine.connection.isMeta(socket.id) ? 'meta' : 'data'
  }

  #nextPacket(socket: Socket, now: number): ReturnType<Framer['next']> {
    try {
      return socket.framer.next()
    } catch (error) {
      if (!(error instanceof AppError)) throw error
      this.#step({ type: 'socket.garbage', socket: socket.id, reason: error.message }, now)
      return undefined
    }
  }

  #applyBackPressure(socket: Socket): void {
    const full = socket.framer.bufferedBytes > BUFFERED_BYTES_MAX && !this.engine.connection.mayReceive(socket.id)
    if (full === socket.paused) return
    socket.paused = full
    if (full) socket.link.pauseReading()
    else socket.link.resumeReading()
  }

  #sendAll(): void {
    for (const socket of this.#touched) {
      if (socket.out.length === 0 || socket.closed) continue
      const out = socket.out
      socket.out = []
      socket.link.send(out)
    }
    this.#touched.clear()
  }

  #setAlarm(): void {
    const at = this.engine.timers.earliestMs
    if (at === this.#alarmAtMs) return
    this.#alarm?.cancel()
    this.#alarm = undefined
    this.#alarmAtMs = at
    if (at === Number.POSITIVE_INFINITY) return
    this.#alarm = this.#ports.clock.wakeAt(at, () => {
      this.#alarmAtMs = Number.POSITIVE_INFINITY
      this.#nowMs = Math.max(at, this.#nowMs)
      this.#events.push({ type: 'tick' })
      this.#run()
    })
  }

  // ---- effects ---------------------------------------------------------------------------------------------------------------------

  #perform(effect: Effect): void {
    switch (effect.type) {
      case 'client.done':
        this.#onClientDone(effect)
        break
      case 'disk.read':
      case 'disk.write':
      case 'disk.zero':
      case 'disk.flush':
      case 'meta.read':
      case 'meta.write':
      case 'meta.flush':
        this.#performDisk(effect)
        break
      case 'socket.send': {
        const socket = this.#sockets.get(effect.socket)
        if (socket === undefined || socket.closed) break
        this.#packetsSent++
        this.#packetWatcher?.('sent', this.#streamOf(socket), effect.packet, this.#ports.clock.nowMs())
        encodePacket(effect.packet, socket.context, socket.out)
        if (effect.packet.type === 'P_RS_DATA_REPLY' || effect.packet.type === 'P_DATA_REPLY') {
          if (socket.sentData.length < SENT_DATA_MAX) socket.sentData.push(effect.packet.payload)
        }
        this.#touched.add(socket)
        break
      }
      case 'admin.done': {
        const done = this.#commands.get(effect.id)
        this.#commands.delete(effect.id)
        done?.(effect.result)
        break
      }
      case 'log':
        this.#ports.log(effect.level, effect.message, effect.volume)
        break
      case 'status':
        this.#ports.onStatusChange()
        break
      default:
        this.#performRare(effect)
    }
  }

  #performRare(effect: Effect): void {
    switch (effect.type) {
      case 'devices.open':
        this.#openDevices(effect.volume)
        break
      case 'devices.close': {
        const devices = this.#devices.get(effect.volume)
        this.#devices.delete(effect.volume)
        if (devices === undefined) break
        closeDevices(devices)
        for (const op of devices.pending) this.#events.push({ type: 'disk.done', op, error: CLOSED, data: undefined })
        break
      }
      case 'socket.connect':
        this.#connecting = this.#ports.network.connect(
          effect.timeoutMs,
          (link) => this.#onLink(link, 'socket.connected'),
          (reason) => this.#push({ type: 'socket.connect-failed', reason }),
        )
        break
      case 'socket.cancel-connect':
        this.#connecting?.cancel()
        break
      case 'socket.listen':
        this.#ports.network.listen(
          (link) => this.#onLink(link, 'socket.accepted'),
          (reason) => this.#push({ type: 'listen.failed', reason }),
        )
        break
      case 'socket.unlisten':
        this.#ports.network.stopListening()
        break
      case 'socket.context': {
        const socket = this.#sockets.get(effect.socket)
        if (socket === undefined) break
        socket.context = effect.context
        socket.framer.setContext(effect.context)
        break
      }
      case 'socket.send-context': {
        const socket = this.#sockets.get(effect.socket)
        if (socket !== undefined) socket.context = effect.context
        break
      }
      case 'socket.receive-context':
        this.#sockets.get(effect.socket)?.framer.setContext(effect.context)
        break
      case 'socket.close':
        this.#closeSocket(effect.socket)
        break
      case 'handler.run': {
        const { name } = effect
        this.#ports.handlers.run(name, new Map([['DRBD_RESOURCE', this.#settings.name]]), (exitCode) =>
          this.#push({ type: 'handler.done', name, exitCode }),
        )
        break
      }
      default:
        break
    }
  }

  #performDisk(
    effect: Extract<
      Effect,
      { type: 'disk.read' | 'disk.write' | 'disk.zero' | 'disk.flush' | 'meta.read' | 'meta.write' | 'meta.flush' }
    >,
  ): void {
    const devices = this.#devices.get(effect.volume)
    const { op } = effect
    if (devices === undefined) {
      this.#events.push({
        type: 'disk.done',
        op,
        error: { code: 'gone', message: 'the device is closed' },
        data: undefined,
      })
      return
    }
    const done = (
      error: { code: 'io' | 'no-space' | 'read-only' | 'gone'; message: string } | undefined,
      data?: Uint8Array,
    ): void => {
      if (!devices.pending.delete(op)) return
      if (effect.type === 'disk.write' && effect.lastUse === true) this.#pool.give(effect.data)
      this.#push({ type: 'disk.done', op, error, data })
    }
    devices.pending.add(op)
    switch (effect.type) {
      case 'disk.read':
        devices.data.read(effect.offsetBytes, effect.lengthBytes, done)
        break
      case 'disk.write':
        devices.data.write(effect.offsetBytes, effect.data, done)
        break
      case 'disk.zero':
        devices.data.zero(effect.offsetBytes, effect.lengthBytes, effect.unmap, done)
        break
      case 'disk.flush':
        devices.data.flush(done)
        break
      case 'meta.read':
        devices.meta.read(effect.offsetBytes, effect.lengthBytes, done)
        break
      case 'meta.write':
        devices.meta.write(effect.offsetBytes, effect.data, done)
        break
      case 'meta.flush':
        devices.meta.flush(done)
        break
    }
  }

  #openDevices(volume: number): void {
    this.#ports.openDevices(volume, (error, devices) => {
      if (this.#abandoned) {
        if (devices !== undefined) closeDevices(devices)
        return
      }
      if (error !== undefined || devices === undefined) {
        this.#push({
          type: 'devices.failed',
          volume,
          code: error?.code ?? 104,
          message: error?.message ?? 'no devices',
        })
        return
      }
      this.#devices.set(volume, { ...devices, pending: new Set() })
      const opened: OpenedDevices = {
        dataBytes: devices.data.sizeBytes,
        metaBytes: devices.meta.sizeBytes,
        metaIndex: devices.metaIndex,
        discardZeroes: devices.data.discardZeroes,
        isHole: (offsetBytes, lengthBytes) => devices.data.isHole(offsetBytes, lengthBytes),
      }
      this.#push({ type: 'devices.opened', volume, devices: opened })
    })
  }

  // ---- links -------------------------------------------------------------------------------------------------------------------

  #onLink(link: Link, how: 'socket.connected' | 'socket.accepted'): void {
    const id = this.#nextId++
    const socket: Socket = {
      id,
      link,
      framer: new Framer(H80_CONTEXT, this.#pool),
      context: H80_CONTEXT,
      out: [],
      sentData: [],
      paused: false,
      closed: false,
    }
    this.#sockets.set(id, socket)
    link.setHandler({
      onData: (chunk) => {
        if (socket.closed) return
        socket.framer.push(chunk)
        this.#run()
      },
      target: () => socket.framer.target(),
      onFilled: (lengthBytes) => {
        if (socket.closed) return
        socket.framer.filled(lengthBytes)
        this.#run()
      },
      onDrain: () => {
        if (socket.out.length === 0) for (const data of socket.sentData.splice(0)) this.#pool.give(data)
        this.#maybeAdmit()
      },
      onClose: (reason) => {
        if (socket.closed) return
        socket.closed = true
        this.#sockets.delete(id)
        this.#push({ type: 'socket.closed', socket: id, reason })
        this.#maybeAdmit()
      },
    })
    this.#push({ type: how, socket: id })
  }

  /** What was sent in this turn goes out before the stream is closed. */
  #closeSocket(id: SocketId): void {
    const socket = this.#sockets.get(id)
    if (socket === undefined) return
    this.#sockets.delete(id)
    if (socket.out.length > 0) socket.link.send(socket.out)
    socket.out = []
    socket.closed = true
    socket.link.close()
  }

  #push(event: EngineEvent): void {
    if (this.#abandoned) return
    this.#events.push(event)
    this.#run()
  }
}

function pendingRequest(done: ClientDone, bytes: number, pieces: number): PendingRequest {
  return { done, bytes, piecesLeft: pieces, error: undefined, data: [], dataUnused: true }
}

function closeDevices(devices: VolumeDevices): void {
  devices.data.close()
  if (devices.meta !== devices.data) devices.meta.close()
}
