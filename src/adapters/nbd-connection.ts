// One accepted socket and its NBD session. Reads into the session's memory, the rest of a large payload directly into its
// place; stops reading when the session has no room; sends the replies of a turn with one writev.

import { Socket } from 'node:net'
import type { NbdExports } from '../nbd/exports.ts'
import type { NbdLimits } from '../nbd/limits.ts'
import { type NbdOutput, NbdSession, type NbdSessionStatus } from '../nbd/session.ts'
import { PAYLOAD_BUFFERS } from './payload-buffers.ts'

export interface NbdConnectionStatus extends NbdSessionStatus {
  readonly id: number
  /** `address:port` of a TCP client, 'unix' otherwise. */
  readonly peer: string
  readonly receivedBytes: number
  readonly sentBytes: number
  /** Replies that the client has not taken yet. */
  readonly queuedBytes: number
}

export interface NbdConnectionOptions {
  readonly id: number
  readonly socket: Socket
  readonly exports: NbdExports
  readonly limits: Partial<NbdLimits>
  readonly handshakeTimeoutMs: number
  readonly directReads: boolean
  /** Call `flush` of this connection when the turn ends. */
  onWantsFlush(connection: NbdConnection): void
  /** The socket is closed. `reason`: undefined if client and server had agreed on it. */
  onClosed(connection: NbdConnection, reason: string | undefined): void
}

/** After the last reply the client has this long to take it and close; until then its bytes are read and dropped. */
const LINGER_MS = 1000

export class NbdConnection implements NbdOutput {
  readonly id: number
  readonly #options: NbdConnectionOptions
  readonly #socket: Socket
  readonly #session: NbdSession
  readonly #peer: string
  readonly #handshakeTimer: NodeJS.Timeout
  #lingerTimer: NodeJS.Timeout | undefined
  #reading = true
  #ending = false
  #closed = false
  #failure: string | undefined

  constructor(options: NbdConnectionOptions) {
    this.id = options.id
    this.#options = options
    this.#session = new NbdSession({
      exports: options.exports,
      out: this,
      limits: options.limits,
      buffers: PAYLOAD_BUFFERS,
    })
    const onRead = { buffer: () => this.#session.target(), callback: (n: number) => this.#onRead(n) }
    const adopted = options.directReads ? adoptSocket(options.socket, onRead) : undefined
    this.#socket = adopted ?? options.socket
    if (adopted === undefined) this.#socket.on('data', (chunk: Buffer) => this.#onData(chunk))
    const { remoteAddress, remotePort } = this.#socket
    this.#peer = remoteAddress === undefined ? 'unix' : `${remoteAddress}:${remotePort}`
    if (remoteAddress !== undefined) this.#socket.setNoDelay(true).setKeepAlive(true, 60_000)
    this.#socket.on('end', () => this.#onEnd())
    this.#socket.on('error', (error) => this.#onError(error))
    this.#socket.on('close', () => this.#onClose())
    this.#handshakeTimer = setTimeout(() => this.#onHandshakeTimeout(), options.handshakeTimeoutMs)
    this.#session.start()
    this.#socket.resume()
  }

  // ---- what the session calls ---------------------------------------------------------------------------------------

  send(chunks: readonly Uint8Array[]): void {
    if (this.#closed) return
    const socket = this.#socket
    socket.cork()
    const last = chunks.length - 1
    for (let i = 0; i < last; i++) socket.write(chunks[i] as Uint8Array)
    socket.write(chunks[last] as Uint8Array, this.#onWritten)
    socket.uncork()
  }

  get queuedBytes(): number {
    return this.#socket.writableLength
  }

  wantsFlush(): void {
    this.#options.onWantsFlush(this)
  }

  close(): void {
    if (this.#ending || this.#closed) return
    this.#ending = true
    this.#socket.end()
    this.#lingerTimer = setTimeout(() => this.#socket.destroy(), LINGER_MS)
    this.#reviewReading()
  }

  // ---- what the server calls ----------------------------------------------------------------------------------------

  /** Sends what was gathered in this turn, and reads on if there is room again. */
  flush(): void {
    this.#session.flushOutput()
    this.#reviewReading()
  }

  /** The export may admit requests again. */
  resume(): void {
    if (this.#closed) return
    this.#session.resume()
    this.#reviewReading()
  }

  shutDown(): void {
    this.#session.shutDown()
  }

  destroy(reason: string): void {
    this.#failure ??= reason
    this.#socket.destroy()
  }

  get status(): NbdConnectionStatus {
    return {
      ...this.#session.status,
      id: this.id,
      peer: this.#peer,
      receivedBytes: this.#socket.bytesRead,
      sentBytes: this.#socket.bytesWritten - this.#socket.writableLength,
      queuedBytes: this.#socket.writableLength,
    }
  }

  // ---- socket events ------------------------------------------------------------------------------------------------

  #onData(chunk: Uint8Array): void {
    this.#session.onData(chunk)
    this.#reviewReading()
  }

  #onRead(lengthBytes: number): boolean {
    this.#session.onFilled(lengthBytes)
    this.#reviewReading()
    return true
  }

  /** A batch of replies has left. */
  readonly #onWritten = (error?: Error | null): void => {
    if (error === undefined || error === null) this.resume()
  }

  #reviewReading(): void {
    const wanted = this.#ending || this.#session.wantsData
    if (wanted === this.#reading || this.#closed) return
    this.#reading = wanted
    if (wanted) this.#socket.resume()
    else this.#socket.pause()
  }

  #onEnd(): void {
    this.#session.onEnd()
  }

  #onError(error: Error): void {
    this.#failure ??= error.message // 'close' follows
  }

  #onHandshakeTimeout(): void {
    if (this.#session.status.phase !== 'negotiation') return
    this.destroy(`no agreement within ${this.#options.handshakeTimeoutMs} ms`)
  }

  #onClose(): void {
    this.#closed = true
    clearTimeout(this.#handshakeTimer)
    clearTimeout(this.#lingerTimer)
    const reason = this.#session.status.closeReason ?? (this.#ending ? undefined : (this.#failure ?? 'the client left'))
    this.#session.onClose()
    this.#options.onClosed(this, reason)
  }
}

interface OnRead {
  buffer(): Uint8Array
  callback(lengthBytes: number): boolean
}

/**
 * The same connection as a socket that reads into our buffers. Node has `onread` for sockets that connect, not for those
 * that a server accepts; so the handle moves to a new socket. It is an inner property: if it looks different in some
 * version of Node, the answer is undefined and the caller reads in the ordinary way (64 KiB at most, one copy more).
 */
function adoptSocket(accepted: Socket, onread: OnRead): Socket | undefined {
  const inner = accepted as unknown as { _handle?: { useUserBuffer?: unknown } | null }
  const handle = inner._handle
  if (handle === undefined || handle === null || typeof handle.useUserBuffer !== 'function') return undefined
  const adopted = new Socket({ handle, allowHalfOpen: true, onread } as ConstructorParameters<typeof Socket>[0])
  inner._handle = null
  accepted.destroy() // without a handle it only tells its server that it is gone
  return adopted
}
