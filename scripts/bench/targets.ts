// What is measured. All of them serve a fresh file of one size in one folder, through the page cache, on a unix socket:
//
//   coprime   the lab: two daemons, protocol C; a write is answered when both files have it
//   mirror    qemu-storage-daemon with a mirror job in mode write-blocking: a write is answered when both files have it,
//             the second one behind nbdkit on TCP. The nearest thing in one direction; only one side can be written.
//   qemu-nbd  one file, not replicated
//   nbdkit    one file, not replicated

import { existsSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { freePorts } from '../../src/adapters/free-ports.ts'
import { compareFiles } from '../files.ts'
import { Lab } from '../lab.ts'
import { ProgramError, Server } from '../processes.ts'
import { Qmp } from './qmp.ts'

export const TARGET_NAMES = ['coprime', 'mirror', 'qemu-nbd', 'nbdkit'] as const
export type TargetName = (typeof TARGET_NAMES)[number]

/** Connections that one server accepts at once. */
const CLIENTS_MAX = 16

export interface Target {
  readonly name: TargetName
  /** The export; of a pair that can be written on both sides, both. */
  readonly uris: readonly string[]
  readonly files: readonly string[]
  /** Of a replicated target: that both files are the same. Throws if not, or if nothing was written. */
  verify(): Promise<void>
  stop(): Promise<void>
}

interface Place {
  readonly folder: string
  readonly sizeBytes: number
}

export function startTarget(name: TargetName, place: Place): Promise<Target> {
  switch (name) {
    case 'coprime':
      return startCoprime(place)
    case 'mirror':
      return startMirror(place)
    case 'qemu-nbd':
      return startQemuNbd(place)
    case 'nbdkit':
      return startNbdkit(place)
  }
}

async function startCoprime({ folder, sizeBytes }: Place): Promise<Target> {
  const lab = await Lab.start({ folder: join(folder, 'lab'), size: String(sizeBytes), detached: false })
  const files = [lab.a.diskPath, lab.b.diskPath] as const
  return {
    name: 'coprime',
    uris: [lab.a.nbdUri, lab.b.nbdUri],
    files,
    verify: () => verifyCopies('coprime', files, sizeBytes),
    stop: () => lab.stop(),
  }
}

async function startMirror({ folder, sizeBytes }: Place): Promise<Target> {
  const files = [join(folder, 'mirror-source.raw'), join(folder, 'mirror-target.raw')] as const
  await Promise.all(files.map((path) => createFile(path, sizeBytes)))
  const [port = 0] = await freePorts(1)
  const targetAddress = ['--ipaddr', '127.0.0.1', '--port', String(port)]
  const targetReady = join(folder, 'mirror-target.pid') // nbdkit writes it when it listens
  const target = await startServer(
    folder,
    'nbdkit',
    ['-f', '-P', targetReady, ...targetAddress, 'file', files[1]],
    targetReady,
  )
  const socket = join(folder, 'mirror.sock')
  const monitor = join(folder, 'mirror.qmp')
  const daemon = await startServer(
    folder,
    'qemu-storage-daemon',
    mirrorArgs({ source: files[0], port, monitor }),
    monitor,
  )
  const qmp = await Qmp.connect(monitor)
  const address = { type: 'unix', data: { path: socket } }
  await qmp.execute('nbd-server-start', { addr: address, 'max-connections': CLIENTS_MAX })
  const exported = { type: 'nbd', id: 'export', 'node-name': 'source', name: '', writable: true }
  await qmp.execute('block-export-add', exported)
  const job = { 'job-id': 'mirror', device: 'source', target: 'target', sync: 'full', 'copy-mode': 'write-blocking' }
  await qmp.execute('blockdev-mirror', job)
  await qmp.event('BLOCK_JOB_READY') // from here on every write goes to both before it is answered
  return {
    name: 'mirror',
    uris: [`nbd+unix:///?socket=${socket}`],
    files,
    async verify() {
      const jobs = (await qmp.execute('query-block-jobs', {})) as readonly { readonly status: string }[]
      if (jobs[0]?.status !== 'ready') throw new ProgramError(`mirror: the job is ${jobs[0]?.status ?? 'gone'}`)
      await verifyCopies('mirror', files, sizeBytes)
    },
    async stop() {
      qmp.close()
      await daemon.stop()
      await target.stop()
    },
  }
}

function mirrorArgs(where: { readonly source: string; readonly port: number; readonly monitor: string }): string[] {
  return [
    '--blockdev',
    `driver=file,node-name=source,filename=${where.source},aio=threads`,
    '--blockdev',
    `driver=nbd,node-name=target,server.type=inet,server.host=127.0.0.1,server.port=${where.port}`,
    '--chardev',
    `socket,id=monitor,path=${where.monitor},server=on,wait=off`,
    '--monitor',
    'chardev=monitor',
  ]
}

async function startQemuNbd({ folder, sizeBytes }: Place): Promise<Target> {
  const file = join(folder, 'qemu-nbd.raw')
  const socket = join(folder, 'qemu-nbd.sock')
  await createFile(file, sizeBytes)
  const how = ['--format=raw', '--cache=writeback', '--aio=threads', '--persistent', `--shared=${CLIENTS_MAX}`]
  return singleFile(
    'qemu-nbd',
    await startServer(folder, 'qemu-nbd', [...how, '-k', socket, file], socket),
    socket,
    file,
  )
}

async function startNbdkit({ folder, sizeBytes }: Place): Promise<Target> {
  const file = join(folder, 'nbdkit.raw')
  const socket = join(folder, 'nbdkit.sock')
  await createFile(file, sizeBytes)
  return singleFile(
    'nbdkit',
    await startServer(folder, 'nbdkit', ['-f', '-U', socket, 'file', file], socket),
    socket,
    file,
  )
}

function singleFile(name: TargetName, server: Server, socket: string, file: string): Target {
  return {
    name,
    uris: [`nbd+unix:///?socket=${socket}`],
    files: [file],
    verify: async () => {},
    stop: () => server.stop(),
  }
}

/** `readyPath` appears when it can be connected to. */
async function startServer(
  folder: string,
  command: string,
  args: readonly string[],
  readyPath: string,
): Promise<Server> {
  const log = join(folder, command)
  const server = new Server({ command, args, outPath: `${log}.out`, errPath: `${log}.err` })
  await server.until(`${readyPath} is there`, () => (existsSync(readyPath) ? true : undefined))
  return server
}

async function verifyCopies(name: string, files: readonly [string, string], sizeBytes: number): Promise<void> {
  const { blocks, differingBlocks, firstDifferenceBytes, zeroBlocks } = await compareFiles(files, sizeBytes)
  if (differingBlocks > 0) {
    throw new ProgramError(
      `${name}: ${differingBlocks} of ${blocks} blocks differ between the two copies, the first at byte ${firstDifferenceBytes}`,
    )
  }
  if (zeroBlocks > 0) throw new ProgramError(`${name}: ${zeroBlocks} of ${blocks} blocks were never written`)
}

async function createFile(path: string, sizeBytes: number): Promise<void> {
  const file = await open(path, 'wx')
  try {
    await file.truncate(sizeBytes)
  } finally {
    await file.close()
  }
}
