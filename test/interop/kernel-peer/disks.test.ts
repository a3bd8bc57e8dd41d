// Goal: disks are interchangeable. Either program attaches what the other wrote and crashed on, finds the same blocks out of
// sync (bitmap and activity log), has the right data, and resyncs no more than it must; hosts are taken over node by node.
// Method: the backing disks are files here, and change hands between the two. A crash is SIGKILL of the daemon, or the end of
// the guest's power; what was acknowledged is compared with what the other reads.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { copyFileSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { DEFAULT_AL_GEOMETRY, internalLayout } from '../../../src/meta/layout.ts'
import { CoprimeHost } from './coprime-host.ts'
import { coprimeConf, kernelConf } from './drbd-conf.ts'
import { freePort, Guest } from './guest.ts'
import { KernelHost } from './kernel-host.ts'
import { type KernelPair, MIB, readRange, rows } from './pair.ts'

const KIB = 1024
/** Where the rows write: in several extents of 4 MiB of the activity log. */
const PLACES = [0, 64 * KIB, 9 * MIB + 12 * KIB, 33 * MIB, 34 * MIB - 4 * KIB, 100 * MIB]

rows('disks change hands', (row) => {
  row.short('the kernel attaches the disk on which a Primary coprime crashed', async (pair) => {
    await pair.inSync({ device: 'large' })
    await pair.kernel.drbdadm('down r0')
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    const written = PLACES.map((offsetBytes) => ({ offsetBytes, data: randomBytes(16 * KIB) }))
    for (const { offsetBytes, data } of written) await nbd.write(offsetBytes, data)
    await pair.coprime.kill()
    const blocks = await blocksFoundByCoprime(pair, pair.coprimeImage)
    swapDisks(pair)
    await pair.kernel.drbdadm('up r0')
    const { outOfSyncKib } = await pair.kernel.state()
    // Four extents are in the log: each of them as a whole is out of sync.
    assert.equal(outOfSyncKib, 4 * 4 * KIB)
    assert.equal(blocks, outOfSyncKib / 4, 'coprime counts the same')
    await resyncOfSwapped(pair)
    await pair.kernel.drbdadm('primary r0')
    for (const { offsetBytes, data } of written) {
      assert.deepEqual(
        await pair.kernel.read(offsetBytes, data.length),
        data,
        `what the kernel reads at ${offsetBytes}`,
      )
    }
    await pair.finish()
  })

  row.short('coprime attaches the disk on which a Primary kernel crashed', async (pair) => {
    await pair.inSync({ device: 'large' })
    await pair.coprime.command({ command: 'down' })
    await pair.coprime.stop()
    await pair.kernel.drbdadm('primary r0')
    const written = PLACES.map((offsetBytes) => ({ offsetBytes, data: randomBytes(16 * KIB) }))
    for (const { offsetBytes, data } of written) await pair.kernel.write(offsetBytes, data)
    await pair.guest.powerOff()
    const blocks = await blocksFoundByCoprime(pair, pair.kernelImage)
    await pair.guest.boot()
    // The kernel itself on a copy of what it left, to be compared with.
    const saved = join(pair.folder, 'saved.img')
    copyFileSync(pair.kernelImage, saved)
    await pair.configure({ device: 'large' })
    await pair.kernel.drbdadm('up r0')
    assert.equal(blocks, (await pair.kernel.state()).outOfSyncKib / 4, 'coprime counts as the kernel does')
    await pair.kernel.drbdadm('down r0')
    copyFileSync(saved, pair.kernelImage)
    swapDisks(pair)
    await pair.guest.dmesg({ clear: true })
    await resyncOfSwapped(pair)
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    for (const { offsetBytes, data } of written) {
      assert.deepEqual(
        Buffer.from(await nbd.read(offsetBytes, data.length)),
        data,
        `what coprime reads at ${offsetBytes}`,
      )
    }
    await pair.finish()
  })

  for (const crasher of ['coprime', 'kernel'] as const) {
    row(
      `${crasher} crashed as Primary: drbdmeta apply-al, the kernel and coprime make the same bitmap of it`,
      async (pair) => {
        await pair.inSync({ device: 'large' })
        await crashAsPrimary(pair, crasher)
        const crashed = join(pair.folder, 'crashed.img')
        copyFileSync(crasher === 'coprime' ? pair.coprimeImage : pair.kernelImage, crashed)
        const bitmaps = {
          drbdmeta: bitmapOfTool(pair, crashed),
          kernel: await bitmapOfKernel(pair, crashed),
          coprime: await bitmapOfCoprime(pair, crashed),
        }
        const count = (bytes: Buffer): number =>
          bytes.reduce((sum, byte) => sum + byte.toString(2).replaceAll('0', '').length, 0)
        assert.equal(count(bitmaps.drbdmeta), 4 * 1024, 'four extents are hot')
        assert.ok(bitmaps.kernel.equals(bitmaps.drbdmeta), 'the kernel and drbdmeta')
        assert.ok(bitmaps.coprime.equals(bitmaps.drbdmeta), 'coprime and drbdmeta')
      },
    )
  }

  row('the kernel attaches the bitmap that coprime left when it went down, bit for bit', async (pair) => {
    await pair.inSync()
    await pair.kernel.drbdadm('down r0')
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    for (const block of [3, 4, 77, 1000, 2047]) await nbd.write(block * 4096, randomBytes(4096))
    await pair.coprime.secondary()
    await pair.coprime.command({ command: 'down' })
    await pair.coprime.stop()
    swapDisks(pair)
    await pair.kernel.drbdadm('up r0')
    assert.equal((await pair.kernel.state()).outOfSyncKib, 5 * 4)
    await resyncOfSwapped(pair)
    assert.equal(pair.coprime.logged(/resync as target begins: 5 blocks/), 1)
    await pair.finish()
  })

  row('coprime attaches the bitmap that the kernel left when it went down, bit for bit', async (pair) => {
    await pair.inSync()
    await pair.coprime.command({ command: 'down' })
    await pair.coprime.stop()
    await pair.kernel.drbdadm('primary r0')
    for (const block of [3, 4, 77, 1000, 2047]) await pair.kernel.write(block * 4096, randomBytes(4096))
    await pair.kernel.drbdadm('secondary r0')
    await pair.kernel.drbdadm('down r0')
    swapDisks(pair)
    await resyncOfSwapped(pair)
    assert.equal(pair.coprime.logged(/resync as source begins: 5 blocks/), 1)
    await pair.finish()
  })

  row('two kernels become kernel and coprime, then two coprimes, without a full sync', async (pair) => {
    await takeOver(pair)
  })

  row('a Primary coprime crashes, the kernel stays: the crashed one comes back and is resynced', async (pair) => {
    await pair.inSync()
    pair.allow(/sock_recvmsg|short read/)
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    await nbd.write(65_536, randomBytes(65_536))
    await pair.coprime.kill()
    await pair.kernel.until('alone', ({ connection }) => connection === 'WFConnection')
    await pair.kernel.drbdadm('primary r0')
    await pair.kernel.writeRandom(131_072, 65_536)
    await pair.coprime.start()
    await pair.coprime.command({ command: 'up' })
    await pair.finish()
  })

  row('a Primary kernel loses its power, coprime takes over; the guest comes back and is resynced', async (pair) => {
    await pair.inSync({ net: { 'ping-int': 2, 'ping-timeout': 20, timeout: 15 } })
    await pair.kernel.drbdadm('primary r0')
    const data = randomBytes(32_768)
    await pair.kernel.write(65_536, data)
    await pair.guest.powerOff()
    await pair.coprime.until('alone', ({ volume }) => volume.connection === 'WFConnection')
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    assert.deepEqual(Buffer.from(await nbd.read(65_536, data.length)), data)
    await nbd.write(98_304, randomBytes(32_768))
    await pair.guest.boot()
    await pair.configure({ net: { 'ping-int': 2, 'ping-timeout': 20, timeout: 15 } })
    await pair.kernel.drbdadm('up r0')
    await pair.finish()
  })
})

/** Writes alone in four extents of the log, then ends without a word. */
async function crashAsPrimary(pair: KernelPair, crasher: 'coprime' | 'kernel'): Promise<void> {
  if (crasher === 'coprime') {
    await pair.kernel.drbdadm('down r0')
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    for (const offsetBytes of PLACES) await nbd.write(offsetBytes, randomBytes(16 * KIB))
    await pair.coprime.kill()
  } else {
    await pair.coprime.command({ command: 'down' })
    await pair.coprime.stop()
    await pair.kernel.drbdadm('primary r0')
    for (const offsetBytes of PLACES) await pair.kernel.write(offsetBytes, randomBytes(16 * KIB))
    await pair.guest.powerOff()
    await pair.guest.boot()
    await pair.reconfigureKernel()
  }
}

/** The bits in use. */
function bitmapOn(image: string): Buffer {
  const { bitmapOffsetBytes, usableSectors } = internalLayout(statSync(image).size, DEFAULT_AL_GEOMETRY)
  return readRange(image, bitmapOffsetBytes, Math.ceil(usableSectors / 8 / 8))
}

function bitmapOfTool(pair: KernelPair, crashed: string): Buffer {
  const copy = join(pair.folder, 'copy.img')
  copyFileSync(crashed, copy)
  const { status, stderr } = spawnSync('drbdmeta', ['--force', '0', 'v08', copy, 'internal', 'apply-al'], {
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
  return bitmapOn(copy)
}

async function bitmapOfKernel(pair: KernelPair, crashed: string): Promise<Buffer> {
  copyFileSync(crashed, pair.kernelImage)
  await pair.kernel.drbdadm('up r0')
  await pair.kernel.drbdadm('down r0')
  return bitmapOn(pair.kernelImage)
}

async function bitmapOfCoprime(pair: KernelPair, crashed: string): Promise<Buffer> {
  const copy = join(pair.folder, 'copy.img')
  copyFileSync(crashed, copy)
  pair.coprime.configure(pair.coprimeConf(copy))
  await pair.coprime.start()
  await pair.coprime.command({ command: 'attach' })
  await pair.coprime.command({ command: 'down' })
  await pair.coprime.stop()
  return bitmapOn(copy)
}

/** What coprime holds for out of sync when it attaches a copy of this disk. */
async function blocksFoundByCoprime(pair: KernelPair, image: string): Promise<number> {
  const copy = join(pair.folder, 'copy.img')
  copyFileSync(image, copy)
  pair.coprime.configure(pair.coprimeConf(copy))
  await pair.coprime.start()
  await pair.coprime.command({ command: 'attach' })
  const { volume } = await pair.coprime.state()
  await pair.coprime.stop()
  pair.coprime.configure(pair.coprimeConf(pair.coprimeImage))
  return volume.outOfSyncBlocks
}

/** Each has the other's disk. The kernel is down, the daemon does not run. */
function swapDisks(pair: KernelPair): void {
  const kept = join(pair.folder, 'kept.img')
  copyFileSync(pair.coprimeImage, kept)
  copyFileSync(pair.kernelImage, pair.coprimeImage)
  copyFileSync(kept, pair.kernelImage)
}

async function resyncOfSwapped(pair: KernelPair): Promise<void> {
  await pair.coprime.start()
  await Promise.all([pair.coprime.command({ command: 'up' }), pair.kernel.drbdadm('adjust r0')])
  await pair.clean()
}

async function takeOver(pair: KernelPair): Promise<void> {
  await pair.begin()
  const other = await Guest.start('a', [{ path: pair.coprimeImage, sizeBytes: 16 * MIB }])
  try {
    await kernelsInSync(pair, new KernelHost(other), other)
  } finally {
    await other.stop()
  }
  // Kernel and coprime: coprime with the disk of the first kernel.
  await pair.configure({})
  await pair.coprime.start()
  await Promise.all([pair.coprime.command({ command: 'up' }), pair.kernel.drbdadm('up r0')])
  await pair.clean()
  assert.equal(pair.coprime.logged(/resync as/), 0, 'nothing to resync')
  await pair.coprime.primary()
  await (await pair.coprime.nbd()).write(MIB, randomBytes(65_536))
  // Without it coprime holds for possible that the peer loses this with its disk's cache, and resyncs it.
  await (await pair.coprime.nbd()).flush()
  await pair.coprime.secondary()
  await pair.kernel.drbdadm('down r0')
  await pair.coprime.command({ command: 'down' })
  await pair.coprime.stop()
  pair.compareDisks(8 * MIB)
  await twoCoprimes(pair)
  pair.compareDisks(8 * MIB)
  await pair.checkLogs()
}

/** Two guests, in sync, with data; both down at the end. Host names as ever: a is where coprime will be. */
async function kernelsInSync(pair: KernelPair, a: KernelHost, guestA: Guest): Promise<void> {
  const device = '/dev/vda'
  const toA = kernelConf({ device, peerPort: guestA.hostPort })
  await pair.kernel.configure(toA, device)
  // What is "b" for one is the guest itself: its own address comes first.
  await a.configure(
    kernelConf({ device, peerPort: pair.guest.hostPort })
      .replaceAll('on b {', 'on x {')
      .replaceAll('on a {', 'on b {')
      .replaceAll('on x {', 'on a {'),
    device,
  )
  await Promise.all([a.drbdadm('create-md --force r0'), pair.kernel.drbdadm('create-md --force r0')])
  await Promise.all([a.drbdadm('up r0'), pair.kernel.drbdadm('up r0')])
  await a.until('connected', ({ connection }) => connection === 'Connected')
  await a.drbdadm('new-current-uuid --clear-bitmap r0/0')
  await a.until('in sync', ({ disk, peerDisk }) => disk === 'UpToDate' && peerDisk === 'UpToDate')
  await a.drbdadm('primary r0')
  await a.writeRandom(0, MIB, 65_536)
  await a.drbdadm('secondary r0')
  await a.drbdadm('down r0')
  await pair.kernel.drbdadm('down r0')
}

async function twoCoprimes(pair: KernelPair): Promise<void> {
  const folder = join(pair.folder, 'b')
  mkdirSync(folder, { recursive: true })
  const b = new CoprimeHost(folder, 'b')
  const port = await freePort()
  const conf = (nbdSocket: string): string =>
    coprimeConf({
      image: pair.coprimeImage,
      peerImage: pair.kernelImage,
      port: pair.ports.coprime,
      peerPort: port,
      nbdSocket,
    })
  pair.coprime.configure(conf(pair.coprime.nbdSocket))
  b.configure(conf(b.nbdSocket))
  try {
    await pair.coprime.start()
    await b.start()
    await Promise.all([pair.coprime.command({ command: 'up' }), b.command({ command: 'up' })])
    for (const host of [pair.coprime, b])
      await host.until('in sync', ({ volume }) => volume.connection === 'Connected' && volume.disk === 'UpToDate')
    assert.equal(b.logged(/resync as/), 0, 'nothing to resync')
    await b.primary()
    const data = randomBytes(65_536)
    await (await b.nbd()).write(2 * MIB, data)
    await b.secondary()
    assert.deepEqual(readRange(pair.coprimeImage, 2 * MIB, data.length), data)
  } finally {
    await b.stop()
    await pair.coprime.stop()
  }
}
