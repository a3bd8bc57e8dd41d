// The files of a lab.
//
//   DIR/lab.res                what both daemons read; written anew at each start
//   DIR/a.img, DIR/b.img       backing disks, with internal metadata
//   DIR/a.log, DIR/b.log       logs of the daemons
//   RUN/lab.sock               control socket of the lab; whoever listens on it is the lab of DIR
//   RUN/fence-peer             the handler that asks the lab
//   RUN/a/, RUN/b/             control socket and NBD socket of each daemon
//
// RUN is DIR, unless the paths of sockets would be too long for the system: then a folder below the system's own for
// temporary files, named after DIR, so that commands from other terminals find it.

import { createHash } from 'node:crypto'
import { realpathSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { UNIX_PATH_BYTES_MAX } from '../../adapters/nbd-listen.ts'
import { StartError } from '../errors.ts'
import { makeFolder } from '../make-folder.ts'
import { SIDES, type SideName } from './options.ts'

export const LAB_RESOURCE = 'r0'
const LONGEST_SOCKET_NAME = '/a/control'

export interface LabPaths {
  readonly folder: string
  readonly configFile: string
  readonly socket: string
  readonly fenceScript: string
  readonly disk: Readonly<Record<SideName, string>>
  readonly log: Readonly<Record<SideName, string>>
  readonly runtime: Readonly<Record<SideName, string>>
  readonly control: Readonly<Record<SideName, string>>
  readonly nbdSocket: Readonly<Record<SideName, string>>
}

/** `folder` is absolute, with links resolved, or does not exist. */
export function labPaths(folder: string): LabPaths {
  const run = runFolder(folder)
  const bySide = (path: (side: SideName) => string): Record<SideName, string> => ({ a: path('a'), b: path('b') })
  return {
    folder,
    configFile: join(folder, 'lab.res'),
    socket: join(run, 'lab.sock'),
    fenceScript: join(run, 'fence-peer'),
    disk: bySide((side) => join(folder, `${side}.img`)),
    log: bySide((side) => join(folder, `${side}.log`)),
    runtime: bySide((side) => join(run, side)),
    control: bySide((side) => join(run, side, 'control')),
    nbdSocket: bySide((side) => join(run, side, `${LAB_RESOURCE}.nbd`)),
  }
}

function runFolder(folder: string): string {
  if (Buffer.byteLength(folder) + LONGEST_SOCKET_NAME.length <= UNIX_PATH_BYTES_MAX) return folder
  const hash = createHash('sha256').update(folder).digest('hex').slice(0, 16)
  return join(tmpdir(), `coprime-lab-${process.getuid?.() ?? 0}-${hash}`)
}

export function resolvedFolder(folder: string): string {
  try {
    return realpathSync(folder)
  } catch {
    return folder // not there yet, or not to be had: whoever uses it says so
  }
}

export function makeFolders(folder: string): LabPaths {
  try {
    makeFolder(folder)
    const paths = labPaths(realpathSync(folder))
    for (const side of SIDES) makeFolder(paths.runtime[side], 0o700)
    return paths
  } catch (cause) {
    const message = `${folder}: cannot be used as the folder of a lab: ${(cause as Error).message}`
    throw new StartError('E_FOLDER', message, { hint: 'Choose another one with --dir.', cause })
  }
}
