// Goal: the adapters of the daemon fulfil the ports. Method: the contract suites on each of them, in each of their ways of working:
// on the file systems at hand, through the thread pool only, without FFI, on a loop device (root only); TCP on loopback,
// plain, behind the delaying wrapper, and with the sockets of a Node.js that lacks what `adoptAccepted` needs.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { delayedNetwork } from '../../src/adapters/delayed-network.ts'
import { type FileDisk, type FileDiskOptions, openFileDisk } from '../../src/adapters/file-disk.ts'
import { freePorts } from '../../src/adapters/free-ports.ts'
import { SystemClock } from '../../src/adapters/system-clock.ts'
import { TcpNetwork } from '../../src/adapters/tcp-network.ts'
import { MIB } from '../../src/base/units.ts'
import type { Network } from '../../src/runtime/ports.ts'
import { OWN_LOOPBACK } from '../support/loopback.ts'
import { clockContract } from './clock-contract.ts'
import { CONTRACT_DISK_BYTES, type DiskWorld, diskContract } from './disk-contract.ts'
import { systemWorld } from './harness.ts'
import { type LinkWorld, linkContract } from './link-contract.ts'

// ---- disks ----------------------------------------------------------------------------------------------------------

function fileWorld(folder: string, options: FileDiskOptions, knowsHoles: boolean): DiskWorld {
  const scratch = mkdtempSync(join(folder, 'coprime-contract-'))
  const path = join(scratch, 'disk')
  writeFileSync(path, '')
  truncateSync(path, CONTRACT_DISK_BYTES)
  return worldOf(path, options, knowsHoles, () => rmSync(scratch, { recursive: true }))
}

function worldOf(path: string, options: FileDiskOptions, knowsHoles: boolean, dispose: () => void): DiskWorld {
  let disk: FileDisk = openFileDisk(path, options)
  const closed = async (): Promise<void> => {
    disk.close()
    await new Promise<void>((resolve) => disk.whenReleased(resolve))
  }
  const first = disk
  return {
    ...systemWorld(async () => {
      await closed()
      dispose()
    }),
    disk: first,
    knowsHoles,
    reopen: async () => {
      await closed()
      disk = openFileDisk(path, options)
      return disk
    },
  }
}

const noMemoryFileSystem = statSync('/dev/shm', { throwIfNoEntry: false }) === undefined ? 'no /dev/shm' : undefined

diskContract('file', () => fileWorld(tmpdir(), {}, true))
diskContract('file, thread pool only', () => fileWorld(tmpdir(), { syncBytesMax: 0 }, true))
diskContract('file, without FFI', () => fileWorld(tmpdir(), { withoutFfi: true }, false))
diskContract('file in memory', () => fileWorld('/dev/shm', {}, true), { skip: noMemoryFileSystem })

/** Attached anew for each test, so that it is all zeroes. */
function loopWorld(): DiskWorld {
  const scratch = mkdtempSync(join(tmpdir(), 'coprime-loop-'))
  const image = join(scratch, 'image')
  writeFileSync(image, '')
  truncateSync(image, CONTRACT_DISK_BYTES)
  const device = execFileSync('losetup', ['-f', '--show', image], { encoding: 'utf8' }).trim()
  return worldOf(device, {}, false, () => {
    execFileSync('losetup', ['-d', device])
    rmSync(scratch, { recursive: true })
  })
}

function whyNoLoopDevice(): string | undefined {
  if (process.getuid?.() !== 0) return 'loop devices need root'
  const found = spawnSync('losetup', ['-f'], { encoding: 'utf8' })
  return found.status === 0 ? undefined : `losetup: ${found.stderr ?? 'not installed'}`
}

diskContract('loop device', loopWorld, { skip: whyNoLoopDevice() })

// ---- links ----------------------------------------------------------------------------------------------------------

async function tcpWorld(wrap: (network: Network) => Network): Promise<LinkWorld> {
  const addresses = (await freePorts(2, OWN_LOOPBACK)).map((port) => ({ address: OWN_LOOPBACK, port }))
  const [atA, atB] = addresses as [(typeof addresses)[0], (typeof addresses)[0]]
  // `b` dials from whichever address the system chooses.
  const a = wrap(new TcpNetwork({ local: atA, peer: atB, bindOutgoing: true, anySource: true }))
  const b = wrap(new TcpNetwork({ local: atB, peer: atA }))
  const bAgain = wrap(new TcpNetwork({ local: atB, peer: atA }))
  return {
    ...systemWorld(() => {
      for (const network of [a, b, bAgain]) network.stopListening()
    }),
    a,
    b,
    bAgain,
    // Linux lets the buffers of both ends grow to some MiB each (tcp_wmem, tcp_rmem).
    bufferBytesMax: 48 * MIB,
  }
}

linkContract('tcp', () => tcpWorld((network) => network))
linkContract('tcp, delayed', () => tcpWorld((network) => delayedNetwork(network, () => 3, new SystemClock())))
linkContract('tcp, wrapper without delay', () =>
  tcpWorld((network) => delayedNetwork(network, () => 0, new SystemClock())),
)

// ---- clock ----------------------------------------------------------------------------------------------------------

clockContract('system clock', () => ({ ...systemWorld(), clock: new SystemClock() }))
