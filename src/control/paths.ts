// Where a daemon keeps its sockets, and where the tools look for them.
//
//   --control, COPRIME_CONTROL              the control socket
//   --runtime-dir, COPRIME_RUNTIME_DIR      the folder: control socket `control`, NBD sockets `RESOURCE.nbd`
//   default folder                          /run/coprime for root, else $XDG_RUNTIME_DIR/coprime, else /tmp/coprime-UID

import { tmpdir } from 'node:os'
import { join } from 'node:path'

export const CONTROL_SOCKET_NAME = 'control'

export interface PathOptions {
  readonly control?: string | undefined
  readonly runtimeDir?: string | undefined
}

export function runtimeFolder(options: PathOptions, environment: NodeJS.ProcessEnv = process.env): string {
  const given = options.runtimeDir ?? environment['COPRIME_RUNTIME_DIR']
  if (given !== undefined && given !== '') return given
  const uid = process.getuid?.() ?? 0
  if (uid === 0) return '/run/coprime'
  const own = environment['XDG_RUNTIME_DIR']
  return own === undefined || own === '' ? join(tmpdir(), `coprime-${uid}`) : join(own, 'coprime')
}

export function controlSocketPath(options: PathOptions, environment: NodeJS.ProcessEnv = process.env): string {
  const given = options.control ?? environment['COPRIME_CONTROL']
  if (given !== undefined && given !== '') return given
  return join(runtimeFolder(options, environment), CONTROL_SOCKET_NAME)
}
