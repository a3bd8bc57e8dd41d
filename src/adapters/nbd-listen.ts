// Opens a listening socket for NBD clients, on a unix path or a TCP address, and says clearly why it cannot. A unix socket
// that a killed process left behind is removed, but only after nobody answered on it.

import { lstat, stat, unlink } from 'node:fs/promises'
import { createConnection, type Server } from 'node:net'
import { dirname } from 'node:path'
import { AppError } from '../base/errors.ts'

/**
 * Connections that may wait to be accepted; the system caps it (net.core.somaxconn). A unix socket refuses further ones with
 * EAGAIN, so a burst of clients, or of strangers, should find room.
 */
const BACKLOG = 4096

export type NbdAddress =
  | { readonly type: 'unix'; readonly path: string }
  /** `port` 0: any free one. */
  | { readonly type: 'tcp'; readonly host: string; readonly port: number }

export type ListenErrorCode =
  | 'E_LISTEN_PATH_TOO_LONG'
  | 'E_LISTEN_IN_USE'
  | 'E_LISTEN_PERMISSION'
  | 'E_LISTEN_NOT_A_SOCKET'
  | 'E_LISTEN_NO_FOLDER'
  | 'E_LISTEN_NO_SUCH_ADDRESS'
  | 'E_LISTEN_FAILED'

const HINTS: Readonly<Record<ListenErrorCode, string>> = {
  E_LISTEN_PATH_TOO_LONG: 'Choose a shorter path, for instance below /run: the operating system allows 107 bytes.',
  E_LISTEN_IN_USE: 'Stop the other program, or choose another path or port.',
  E_LISTEN_PERMISSION: 'Check the owner and mode of the folder, or use a port above 1023.',
  E_LISTEN_NOT_A_SOCKET: 'Choose another path, or move the file away. It was left alone.',
  E_LISTEN_NO_FOLDER: 'Create the folder first.',
  E_LISTEN_NO_SUCH_ADDRESS: 'Use an address that this host has; `ip address` lists them.',
  E_LISTEN_FAILED: 'See the message of the operating system.',
}

export class ListenError extends AppError {
  override readonly name = 'ListenError'
  readonly code: ListenErrorCode
  readonly hint: string

  constructor(code: ListenErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
    this.hint = HINTS[code]
  }
}

/** sun_path of sockaddr_un has 108 bytes on Linux, one of them for the final NUL. */
export const UNIX_PATH_BYTES_MAX = 107
/** A listener whose queue is full lets a connect wait: that is somebody. */
const PROBE_TIMEOUT_MS = 1000

export const addressText = (address: NbdAddress): string =>
  address.type === 'unix' ? address.path : `${address.host}:${address.port}`

/** Listens; the result is the address with its real port. Throws a ListenError. */
export async function listenOn(server: Server, address: NbdAddress): Promise<NbdAddress> {
  if (address.type === 'tcp') {
    await tryListen(server, address)
    const bound = server.address()
    return typeof bound === 'object' && bound !== null ? { ...address, port: bound.port } : address
  }
  const pathBytes = Buffer.byteLength(address.path)
  if (pathBytes > UNIX_PATH_BYTES_MAX) {
    throw new ListenError(
      'E_LISTEN_PATH_TOO_LONG',
      `${address.path}: a socket path of ${pathBytes} bytes, the limit is ${UNIX_PATH_BYTES_MAX}`,
    )
  }
  const folder = dirname(address.path)
  const isFolder = await stat(folder).then(
    (found) => found.isDirectory(),
    (error: NodeJS.ErrnoException) => error.code !== 'ENOENT' && error.code !== 'ENOTDIR',
  )
  // Asked beforehand: libuv reports a missing folder as EACCES.
  if (!isFolder) throw new ListenError('E_LISTEN_NO_FOLDER', `${address.path}: there is no folder ${folder}`)
  try {
    await tryListen(server, address)
  } catch (error) {
    if (!(error instanceof ListenError) || error.code !== 'E_LISTEN_IN_USE') throw error
    await removeStaleSocket(address.path)
    await tryListen(server, address)
  }
  return address
}

function tryListen(server: Server, address: NbdAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException): void => {
      server.off('listening', onListening)
      reject(listenError(address, error))
    }
    const onListening = (): void => {
      server.off('error', onError)
      resolve()
    }
    server.once('error', onError)
    server.once('listening', onListening)
    if (address.type === 'unix') server.listen({ path: address.path, backlog: BACKLOG })
    else server.listen({ host: address.host, port: address.port, backlog: BACKLOG })
  })
}

function listenError(address: NbdAddress, cause: NodeJS.ErrnoException): ListenError {
  const where = addressText(address)
  switch (cause.code) {
    case 'EADDRINUSE':
      return new ListenError('E_LISTEN_IN_USE', `${where} is in use by another program`, { cause })
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new ListenError('E_LISTEN_PERMISSION', `${where}: not allowed to listen here (${cause.code})`, { cause })
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new ListenError('E_LISTEN_NO_SUCH_ADDRESS', `${where}: not an address of this host`, { cause })
    default:
      return new ListenError('E_LISTEN_FAILED', `${where}: ${cause.message}`, { cause })
  }
}

async function removeStaleSocket(path: string): Promise<void> {
  const before = await lstat(path).catch(() => undefined)
  if (before === undefined) return // gone in the meantime
  if (!before.isSocket()) throw new ListenError('E_LISTEN_NOT_A_SOCKET', `${path} exists and is not a socket`)
  if (await isAnswered(path)) throw new ListenError('E_LISTEN_IN_USE', `${path} is in use by another program`)
  const after = await lstat(path).catch(() => undefined)
  // Another process may have replaced the stale socket by its own while we probed.
  if (after === undefined || after.ino !== before.ino || after.ctimeMs !== before.ctimeMs) return
  try {
    await unlink(path)
  } catch (cause) {
    throw new ListenError('E_LISTEN_PERMISSION', `${path}: a stale socket that cannot be removed`, { cause })
  }
}

/** Whether a process listens on the socket. Only a refused connection proves that none does. */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createConnection({ path })
    const finish = (answered: boolean): void => {
      clearTimeout(timer)
      probe.destroy()
      resolve(answered)
    }
    const timer = setTimeout(() => finish(true), PROBE_TIMEOUT_MS)
    probe.on('connect', () => finish(true))
    probe.on('error', (error: NodeJS.ErrnoException) => {
      finish(error.code !== 'ECONNREFUSED' && error.code !== 'ENOENT')
    })
  })
}
