// Our own NBD client on a socket, with promises: for tests, benches and tools.

import { createConnection, type IpcSocketConnectOpts, type Socket, type TcpSocketConnectOpts } from 'node:net'
import { NbdClient, type NbdClientDone, type NbdClientResult } from '../nbd/client/client.ts'
import { type NbdClientError, NbdDisconnectedError } from '../nbd/client/errors.ts'
import type { NbdExportInfo } from '../nbd/client/negotiation.ts'
import type { NbdOutput } from '../nbd/session.ts'
import type { StatusExtent } from '../wire/nbd/transmission.ts'

export type NbdTarget = { readonly socketPath: string } | { readonly host: string; readonly port: number }

export type NbdConnectOptions = NbdTarget & {
  /** Default '': the server's default export. */
  readonly exportName?: string
  readonly structuredReplies?: boolean
  readonly oldExportName?: boolean
  /** For the connection and the handshake. */
  readonly timeoutMs?: number
}

const TIMEOUT_MS = 10_000
/** The server has this long to close its side. */
const LINGER_MS = 1000

/** Connects and chooses the export. Rejects with an NbdClientError. */
export function connectNbd(options: NbdConnectOptions): Promise<NbdConnectionToServer> {
  return new Promise((resolve, reject) => {
    const connection = new NbdConnectionToServer(options, resolve, reject)
    connection.start()
  })
}

/** An established connection; every method may be called while others are in flight. */
export class NbdConnectionToServer implements NbdOutput {
  readonly #client: NbdClient
  readonly #options: NbdConnectOptions
  readonly #timer: NodeJS.Timeout
  #socket: Socket | undefined
  #info: Readonly<NbdExportInfo> | undefined
  #failure: NbdClientError | undefined
  #socketError: string | undefined
  #closed = false
  #onSocketClosed: (() => void) | undefined

  constructor(
    options: NbdConnectOptions,
    onReady: (connection: NbdConnectionToServer) => void,
    onFailed: (error: NbdClientError) => void,
  ) {
    this.#options = options
    this.#client = new NbdClient({
      exportName: options.exportName ?? '',
      structuredReplies: options.structuredReplies ?? true,
      oldExportName: options.oldExportName ?? false,
      out: this,
      allocate: (lengthBytes) => Buffer.allocUnsafeSlow(lengthBytes),
      onReady: (info) => {
        clearTimeout(this.#timer)
        this.#info = info
        onReady(this)
      },
      onFailed: (error) => {
        clearTimeout(this.#timer)
        this.#failure = error
        onFailed(error) // no effect once ready
      },
    })
    this.#timer = setTimeout(
      () => this.#client.onClose('the server did not answer in time'),
      options.timeoutMs ?? TIMEOUT_MS,
    )
  }

  start(): void {
    const onread = {
      buffer: () => this.#client.target(),
      callback: (lengthBytes: number) => {
        this.#client.onFilled(lengthBytes)
        return true
      },
    }
    const where = 'socketPath' in this.#options ? { path: this.#options.socketPath } : hostAndPort(this.#options)
    const socket = createConnection({ ...where, onread } as TcpSocketConnectOpts | IpcSocketConnectOpts)
    this.#socket = socket
    if (!('socketPath' in this.#options)) socket.setNoDelay(true)
    socket.on('error', (error) => {
      this.#socketError = error.message
    })
    socket.on('close', () => {
      this.#closed = true
      this.#client.onClose(this.#socketError ?? 'the server closed the connection')
      this.#onSocketClosed?.()
    })
  }

  get info(): Readonly<NbdExportInfo> {
    if (this.#info === undefined) throw this.#failure ?? new NbdDisconnectedError('not connected yet')
    return this.#info
  }

  get sizeBytes(): number {
    return this.info.sizeBytes
  }

  /** NBD_FLAG_* of the export. */
  get flags(): number {
    return this.info.flags
  }

  get inFlight(): number {
    return this.#client.inFlight
  }

  /** The state machine below, for callers that want no promise for each command. */
  get client(): NbdClient {
    return this.#client
  }

  read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    return this.#command((done) => this.#client.read(offsetBytes, lengthBytes, done)).then(
      (result) => result.data ?? new Uint8Array(0),
    )
  }

  async write(offsetBytes: number, data: Uint8Array, how: { readonly fua?: boolean } = {}): Promise<void> {
    await this.#command((done) => this.#client.write(offsetBytes, data, how.fua === true, done))
  }

  async flush(): Promise<void> {
    await this.#command((done) => this.#client.flush(done))
  }

  async trim(offsetBytes: number, lengthBytes: number, how: { readonly fua?: boolean } = {}): Promise<void> {
    await this.#command((done) => this.#client.trim(offsetBytes, lengthBytes, how.fua === true, done))
  }

  async writeZeroes(
    offsetBytes: number,
    lengthBytes: number,
    how: { readonly fua?: boolean; readonly noHole?: boolean; readonly fastZero?: boolean } = {},
  ): Promise<void> {
    await this.#command((done) => this.#client.writeZeroes(offsetBytes, lengthBytes, how, done))
  }

  async cache(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.#command((done) => this.#client.cache(offsetBytes, lengthBytes, done))
  }

  /** Extents of base:allocation. */
  blockStatus(
    offsetBytes: number,
    lengthBytes: number,
    how: { readonly one?: boolean } = {},
  ): Promise<readonly StatusExtent[]> {
    return this.#command((done) => this.#client.blockStatus(offsetBytes, lengthBytes, how.one === true, done)).then(
      (result) => result.extents ?? [],
    )
  }

  /** Says goodbye and waits until the socket is closed. Commands in flight fail. */
  async disconnect(): Promise<void> {
    if (this.#closed) return
    const closed = new Promise<void>((resolve) => {
      this.#onSocketClosed = resolve
    })
    this.#client.disconnect()
    await closed
  }

  /** Drops the connection without goodbye, as a crash would. */
  destroy(): void {
    this.#socket?.destroy()
  }

  // ---- what the client calls ----------------------------------------------------------------------------------------

  send(chunks: readonly Uint8Array[]): void {
    const socket = this.#socket
    if (socket === undefined || this.#closed) return
    socket.cork()
    for (const chunk of chunks) socket.write(chunk)
    socket.uncork()
  }

  get queuedBytes(): number {
    return this.#socket?.writableLength ?? 0
  }

  wantsFlush(): void {
    setImmediate(this.#flush)
  }

  close(): void {
    const socket = this.#socket
    if (socket === undefined) return
    if (socket.connecting) {
      socket.destroy()
      return
    }
    socket.end()
    const timer = setTimeout(() => socket.destroy(), LINGER_MS)
    socket.once('close', () => clearTimeout(timer))
  }

  readonly #flush = (): void => {
    this.#client.flushOutput()
  }

  #command(start: (done: NbdClientDone) => void): Promise<NbdClientResult> {
    return new Promise((resolve, reject) => {
      start((error, result) => {
        if (error === undefined) resolve(result)
        else reject(error)
      })
    })
  }
}

function hostAndPort(target: NbdTarget): { host: string; port: number } {
  return 'host' in target ? { host: target.host, port: target.port } : { host: '', port: 0 }
}
