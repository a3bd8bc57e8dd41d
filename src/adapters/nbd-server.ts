// The NBD server: listens on unix paths and TCP addresses, gives each client a session, and sends the replies of all
// sessions once per turn of the event loop.

import { createServer, type Server, type Socket } from 'node:net'
import type { NbdExports } from '../nbd/exports.ts'
import type { NbdLimits } from '../nbd/limits.ts'
import { NbdConnection, type NbdConnectionStatus } from './nbd-connection.ts'
import { addressText, listenOn, type NbdAddress } from './nbd-listen.ts'

export type { NbdConnectionStatus } from './nbd-connection.ts'
export { ListenError, type ListenErrorCode, type NbdAddress, UNIX_PATH_BYTES_MAX } from './nbd-listen.ts'

export interface NbdServerOptions {
  readonly exports: NbdExports
  readonly listen: readonly NbdAddress[]
  readonly limits?: Partial<NbdLimits>
  /** Further clients are turned away. */
  readonly connectionsMax?: number
  /** A client must be in transmission by then. */
  readonly handshakeTimeoutMs?: number
  /** Whether to read into buffers of our own (default). False: as Node's sockets do. */
  readonly directReads?: boolean
  /** One line for the log. */
  log?(level: 'debug' | 'info' | 'warn', message: string): void
}

export interface NbdServerStatus {
  readonly addresses: readonly NbdAddress[]
  readonly connections: readonly NbdConnectionStatus[]
  /** Since start. */
  readonly acceptedCount: number
  readonly refusedCount: number
}

const CONNECTIONS_MAX = 128
const HANDSHAKE_TIMEOUT_MS = 60_000
const CLOSE_TIMEOUT_MS = 5000

export class NbdServer {
  readonly #options: NbdServerOptions
  readonly #connections = new Map<number, NbdConnection>()
  #servers: Server[] = []
  #addresses: NbdAddress[] = []
  #acceptedCount = 0
  #refusedCount = 0
  /** Connections with gathered replies; sent together when the turn ends. */
  #unflushed: NbdConnection[] = []
  #closing = false
  /** Called when the last connection is gone. */
  #onEmpty: (() => void) | undefined

  constructor(options: NbdServerOptions) {
    this.#options = options
  }

  /** Listens on all addresses or, with a ListenError, on none. The result has the real ports. */
  async listen(): Promise<readonly NbdAddress[]> {
    try {
      for (const address of this.#options.listen) {
        const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
        const bound = await listenOn(server, address)
        server.on('connection', (socket) => this.#onConnection(socket))
        server.on('error', (error) => this.#log('warn', `${addressText(bound)}: ${error.message}`))
        this.#servers.push(server)
        this.#addresses.push(bound)
      }
    } catch (error) {
      await this.close(0)
      throw error
    }
    return this.#addresses
  }

  /** Tells the sessions that their export may admit requests again. */
  reviewAdmission(): void {
    for (const connection of this.#connections.values()) connection.resume()
  }

  get status(): NbdServerStatus {
    return {
      addresses: this.#addresses,
      connections: [...this.#connections.values()].map((connection) => connection.status),
      acceptedCount: this.#acceptedCount,
      refusedCount: this.#refusedCount,
    }
  }

  /** New requests get ESHUTDOWN; requests in flight are answered, if they are done in time; then all is closed. */
  async close(timeoutMs = CLOSE_TIMEOUT_MS): Promise<void> {
    this.#closing = true
    const servers = this.#servers
    this.#servers = []
    const stopped = servers.map((server) => new Promise((resolve) => server.close(resolve)))
    for (const connection of this.#connections.values()) connection.shutDown()
    await this.#waitUntilEmpty(timeoutMs)
    for (const connection of this.#connections.values()) connection.destroy('the server is closed')
    await Promise.all(stopped)
  }

  async #waitUntilEmpty(timeoutMs: number): Promise<void> {
    if (this.#connections.size === 0 || timeoutMs === 0) return
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs)
      this.#onEmpty = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  #onConnection(socket: Socket): void {
    const connectionsMax = this.#options.connectionsMax ?? CONNECTIONS_MAX
    if (this.#closing || this.#connections.size >= connectionsMax) {
      this.#refusedCount += 1
      this.#log('warn', `client turned away: ${this.#connections.size} are connected, the limit is ${connectionsMax}`)
      socket.destroy()
      return
    }
    this.#acceptedCount += 1
    const connection = new NbdConnection({
      id: this.#acceptedCount,
      socket,
      exports: this.#options.exports,
      limits: this.#options.limits ?? {},
      handshakeTimeoutMs: this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS,
      directReads: this.#options.directReads ?? true,
      onWantsFlush: (one) => this.#onWantsFlush(one),
      onClosed: (one, reason) => this.#onClosed(one, reason),
    })
    this.#connections.set(connection.id, connection)
  }

  #onWantsFlush(connection: NbdConnection): void {
    // setImmediate runs after all sockets and disks of this turn had their say: replies of one turn leave together.
    if (this.#unflushed.length === 0) setImmediate(this.#flush)
    this.#unflushed.push(connection)
  }

  readonly #flush = (): void => {
    const connections = this.#unflushed
    this.#unflushed = []
    for (const connection of connections) connection.flush()
  }

  #onClosed(connection: NbdConnection, reason: string | undefined): void {
    this.#connections.delete(connection.id)
    const { exportName, peer } = connection.status
    this.#log('debug', `client ${connection.id} (${peer}) of ${exportName ?? 'no export'} closed: ${reason ?? 'done'}`)
    if (this.#connections.size === 0) this.#onEmpty?.()
  }

  #log(level: 'debug' | 'info' | 'warn', message: string): void {
    this.#options.log?.(level, message)
  }
}
