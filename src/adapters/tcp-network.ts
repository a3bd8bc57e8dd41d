// The Network port on TCP: one peer, one address of our own. Outgoing sockets may be bound to the own address (any port),
// as DRBD does, so that the peer and its firewall see the configured address.

import net from 'node:net'

import { assert } from '../base/assert.ts'
import { AppError } from '../base/errors.ts'
import type { Link, Network } from '../runtime/ports.ts'
import { systemCodeOf } from './system-code.ts'
import { adoptAccepted, ReadBuffers, TcpLink } from './tcp-link.ts'

export interface TcpAddress {
  /** An IPv4 or IPv6 address, without brackets. */
  readonly address: string
  readonly port: number
}

export interface TcpNetworkOptions {
  readonly local: TcpAddress
  readonly peer: TcpAddress
  /** Bind outgoing sockets to the local address. */
  readonly bindOutgoing?: boolean
  /** Take connections from any address: the peer is behind NAT, or has several. Else only from the peer's. */
  readonly anySource?: boolean
  /** Hears of each connection that was refused for its address. */
  readonly onStranger?: (address: string) => void
  /** Hears of each failure to listen with all its details; the port's callback gets the text. */
  readonly onListenError?: (error: ListenError) => void
}

export type ListenErrorCode = 'E_ADDRESS_IN_USE' | 'E_ADDRESS_NOT_LOCAL' | 'E_ADDRESS_FORBIDDEN' | 'E_LISTEN'

const LISTEN_ERRORS: Readonly<Record<ListenErrorCode, readonly [what: string, hint: string]>> = {
  E_ADDRESS_IN_USE: [
    'the address is in use',
    'Another program, or a second daemon, listens there: find it with `ss -ltnp`, or choose another port.',
  ],
  E_ADDRESS_NOT_LOCAL: [
    'this machine does not have that address',
    'Compare `ip address` with the `address` of this host in the configuration.',
  ],
  E_ADDRESS_FORBIDDEN: ['permission denied', 'Ports below 1024 need root, or CAP_NET_BIND_SERVICE.'],
  E_LISTEN: ['it failed', 'See the message of the operating system.'],
}

export class ListenError extends AppError {
  override readonly name = 'ListenError'
  readonly code: ListenErrorCode
  readonly hint: string
  readonly details: { readonly address: string; readonly port: number; readonly systemCode: string | undefined }

  constructor(local: TcpAddress, cause: Error) {
    const systemCode = systemCodeOf(cause)
    const code = listenErrorCode(systemCode)
    const [what, hint] = LISTEN_ERRORS[code]
    super(`cannot listen on ${format(local)}: ${what} (${systemCode ?? cause.message})`, { cause })
    this.code = code
    this.hint = hint
    this.details = { ...local, systemCode }
  }
}

function listenErrorCode(systemCode: string | undefined): ListenErrorCode {
  if (systemCode === 'EADDRINUSE') return 'E_ADDRESS_IN_USE'
  if (systemCode === 'EADDRNOTAVAIL') return 'E_ADDRESS_NOT_LOCAL'
  if (systemCode === 'EACCES' || systemCode === 'EPERM') return 'E_ADDRESS_FORBIDDEN'
  return 'E_LISTEN'
}

const format = ({ address, port }: TcpAddress): string =>
  address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`

interface Listener {
  readonly onLink: (link: Link) => void
  readonly onFailure: (reason: string) => void
}

export class TcpNetwork implements Network {
  readonly #options: TcpNetworkOptions
  /** Who listens; undefined after `stopListening`. */
  #listener: Listener | undefined
  /** Listening or about to: Node.js begins a moment after the call, and cannot be stopped before. */
  #server: net.Server | undefined
  /** Holds the peer's address; compares addresses, not their spelling. */
  readonly #peer = new net.BlockList()

  constructor(options: TcpNetworkOptions) {
    this.#options = options
    this.#peer.addAddress(...familiar(options.peer.address))
  }

  connect(timeoutMs: number, onUp: (link: Link) => void, onFailure: (reason: string) => void): { cancel(): void } {
    const { local, peer, bindOutgoing } = this.#options
    const attempt = new ConnectAttempt(peer, bindOutgoing === true ? local.address : undefined, onUp, onFailure)
    attempt.start(timeoutMs)
    return attempt
  }

  listen(onLink: (link: Link) => void, onFailure: (reason: string) => void): void {
    assert(this.#listener === undefined, 'listening already')
    this.#listener = { onLink, onFailure }
    if (this.#server === undefined) this.#server = this.#startServer()
  }

  stopListening(): void {
    this.#listener = undefined
    if (this.#server?.listening === true) this.#closeServer()
  }

  #startServer(): net.Server {
    const { local, onListenError } = this.#options
    const server = net.createServer({ noDelay: true, pauseOnConnect: true })
    server.on('listening', () => {
      if (this.#listener === undefined) this.#closeServer() // it was stopped before it began
    })
    server.on('connection', (accepted) => {
      if (this.#listener === undefined || !this.#isFromPeer(accepted)) accepted.destroy()
      else this.#listener.onLink(linkOfAccepted(accepted))
    })
    server.on('error', (cause) => {
      // Also a failure to accept (no descriptors left): whoever hears of it listens again.
      const listener = this.#listener
      this.#listener = undefined
      this.#closeServer()
      if (listener === undefined) return
      const error = new ListenError(local, cause)
      onListenError?.(error)
      listener.onFailure(error.message)
    })
    server.listen({ host: local.address, port: local.port })
    return server
  }

  #isFromPeer({ remoteAddress }: net.Socket): boolean {
    if (this.#options.anySource === true) return true
    if (remoteAddress === undefined) return false // it is gone already
    if (this.#peer.check(...familiar(remoteAddress))) return true
    this.#options.onStranger?.(remoteAddress)
    return false
  }

  #closeServer(): void {
    // One that has failed to listen has nothing to close, and says so to a callback only.
    this.#server?.close(() => {})
    this.#server = undefined
  }
}

/** An address as node:net takes it: with its family, without the interface of a link-local one. */
function familiar(address: string): [address: string, family: 'ipv4' | 'ipv6'] {
  const [plain = address] = address.split('%')
  return [plain, net.isIPv4(plain) ? 'ipv4' : 'ipv6']
}

/** TCP lets a socket that was given the very port that it dials connect to itself, if nobody listens there. */
export function isConnectedToItself(socket: net.Socket): boolean {
  return socket.localPort === socket.remotePort && socket.localAddress === socket.remoteAddress
}

function linkOfAccepted(accepted: net.Socket): TcpLink {
  const buffers = new ReadBuffers()
  const adopted = adoptAccepted(accepted, buffers)
  return adopted === undefined ? new TcpLink(accepted, undefined) : new TcpLink(adopted, buffers)
}

class ConnectAttempt {
  readonly #peer: TcpAddress
  readonly #buffers = new ReadBuffers()
  readonly #socket: net.Socket
  readonly #onUp: (link: Link) => void
  readonly #onFailure: (reason: string) => void
  #timer: NodeJS.Timeout | undefined
  #over = false

  constructor(
    peer: TcpAddress,
    localAddress: string | undefined,
    onUp: (link: Link) => void,
    onFailure: (reason: string) => void,
  ) {
    this.#peer = peer
    this.#onUp = onUp
    this.#onFailure = onFailure
    this.#socket = net.connect({
      host: peer.address,
      port: peer.port,
      noDelay: true,
      onread: this.#buffers.onread as net.OnReadOpts,
      ...(localAddress === undefined ? {} : { localAddress }),
    })
    this.#socket.pause() // nothing is read before the link has a handler
  }

  start(timeoutMs: number): void {
    this.#timer = setTimeout(() => this.#fail('timed out'), timeoutMs)
    this.#socket.once('connect', () => this.#succeed())
    // Stays for good: an error after a cancel must not end the process.
    this.#socket.on('error', (error) => this.#fail(error.message))
  }

  cancel(): void {
    if (!this.#end()) return
    this.#socket.destroy()
  }

  #succeed(): void {
    if (isConnectedToItself(this.#socket)) this.#fail('nobody listens there, and the connection came back to itself')
    else if (this.#end()) this.#onUp(new TcpLink(this.#socket, this.#buffers))
  }

  #fail(reason: string): void {
    if (!this.#end()) return
    this.#socket.destroy()
    this.#onFailure(`cannot connect to ${format(this.#peer)}: ${reason}`)
  }

  /** True for the first caller only. */
  #end(): boolean {
    if (this.#over) return false
    this.#over = true
    clearTimeout(this.#timer)
    return true
  }
}
