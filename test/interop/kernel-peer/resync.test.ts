// Goal: after any resync both disks are equal, and only what had to be copied was copied.
// Method: full syncs, bitmaps plain and compressed, checksums, holes; each with coprime as source and as target.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { PacketLog } from './packet-log.ts'
import { type KernelPair, MIB, type RowOptions, rows } from './pair.ts'

const KIB = 1024
const FILL_SECTORS = 128
/** The kernel's begins with 250 KiB a second, and so does coprime's. */
const CONTROLLER = { 'c-plan-ahead': 10, 'c-fill-target': `${FILL_SECTORS}s`, 'resync-rate': '8M' }
const LOST = /sock_recvmsg|short read|error receiving/

rows('resync', (row) => {
  row.short('first full sync, coprime is the source', async (pair) => {
    await pair.begin()
    await pair.create()
    await pair.coprime.command({ command: 'up' })
    await pair.coprime.command({ command: 'primary', force: true })
    await (await pair.coprime.nbd()).write(5 * KIB, randomBytes(3 * MIB))
    await pair.kernel.drbdadm('up r0')
    await pair.finish()
  })

  row.short('first full sync, the kernel is the source', async (pair) => {
    await pair.begin()
    await pair.create()
    await pair.kernel.drbdadm('up r0')
    await pair.kernel.drbdadm('primary --force r0')
    await pair.kernel.writeRandom(4 * KIB, 3 * MIB, 64 * KIB)
    await pair.coprime.command({ command: 'up' })
    await pair.finish()
  })

  row('primary --force while connected: full sync both ways, one after the other', async (pair) => {
    await pair.begin()
    await pair.create()
    await pair.up()
    await pair.connected()
    await pair.coprime.command({ command: 'primary', force: true })
    await pair.clean()
    await pair.coprime.secondary()
    await pair.coprime.command({ command: 'invalidate' })
    await pair.clean()
    await pair.coprime.command({ command: 'invalidate-remote' })
    await pair.clean()
    await pair.kernel.drbdadm('invalidate r0')
    await pair.clean()
    await pair.kernel.drbdadm('invalidate-remote r0')
    await pair.finish()
  })

  row(
    'primary --force on the kernel while connected and both Inconsistent: coprime becomes the target',
    async (pair) => {
      await pair.begin()
      await pair.create()
      await pair.up()
      await pair.connected()
      await pair.kernel.drbdadm('primary --force r0')
      await pair.kernel.writeRandom(4 * KIB, 64 * KIB, 64 * KIB)
      await pair.clean()
      assert.equal(pair.coprime.logged(/resync as target begins/), 1)
      await pair.finish()
    },
  )

  for (const target of ['coprime', 'kernel'] as const) {
    row(
      `${target} is invalidated right after the initial sync was skipped: both have one generation afterwards`,
      async (pair) => {
        await pair.inSync()
        if (target === 'coprime') await pair.coprime.command({ command: 'invalidate' })
        else await pair.kernel.drbdadm('invalidate r0')
        await pair.clean()
        await pair.coprime.command({ command: 'disconnect' })
        await pair.coprime.command({ command: 'connect' })
        await pair.clean()
        assert.equal(pair.coprime.logged(/resync as (source|target) begins/), 1, 'no second one')
        await pair.finish()
      },
    )
  }

  for (const useRle of [true, false]) {
    for (const source of ['coprime', 'kernel'] as const) {
      const add = useRle ? row.short : row
      add(`bitmap ${useRle ? 'compressed' : 'plain'}, ${source} is the source`, async (pair) => {
        await missedWrites(pair, source, { net: { 'use-rle': useRle }, device: 'large' })
        await pair.finish()
      })
    }
  }

  row('a bitmap that does not compress', async (pair) => {
    await pair.inSync()
    await pair.kernel.drbdadm('disconnect r0')
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    for (let block = 0; block < 1500; block += 2) await nbd.write(block * 4 * KIB, randomBytes(512))
    await pair.kernel.drbdadm('connect r0')
    await pair.finish()
  })

  for (const algorithm of ['sha1', 'crc32c']) {
    for (const source of ['coprime', 'kernel'] as const) {
      row(`checksum resync with ${algorithm}, ${source} is the source`, async (pair) => {
        await missedWrites(pair, source, { net: { 'csums-alg': algorithm } }, true)
        if (source === 'coprime') await pair.kernel.untilLogged(/had equal checksums/)
        else assert.equal(pair.coprime.logged(/ [1-9]\d* bytes had equal checksums/), 1)
        await pair.finish()
      })
    }
  }

  for (const source of ['coprime', 'kernel'] as const) {
    row(`thin resync, ${source} is the source: holes stay holes`, async (pair) => {
      await pair.begin({ disk: { 'rs-discard-granularity': 65_536 } })
      await pair.create()
      const primary = source === 'coprime' ? pair.coprime.command({ command: 'up' }) : pair.kernel.drbdadm('up r0')
      await primary
      if (source === 'coprime') {
        await pair.coprime.command({ command: 'primary', force: true })
        await (await pair.coprime.nbd()).write(MIB, randomBytes(256 * KIB))
        await pair.kernel.drbdadm('up r0')
      } else {
        await pair.kernel.drbdadm('primary --force r0')
        await pair.kernel.writeRandom(MIB, 256 * KIB, 64 * KIB)
        await pair.coprime.command({ command: 'up' })
      }
      await pair.clean()
      if (source === 'kernel') {
        const { volume } = await pair.coprime.state()
        assert.ok(volume.resyncHoleBytes > 10 * MIB, `${volume.resyncHoleBytes} bytes came as holes`)
      }
      await pair.finish()
    })
  }

  for (const source of ['coprime', 'kernel'] as const) {
    row(`both write while ${source} is the source of a full resync`, async (pair) => {
      await pair.inSync({ device: 'large', net: { 'allow-two-primaries': true }, disk: { 'resync-rate': '16M' } })
      if (source === 'coprime') await pair.coprime.command({ command: 'invalidate-remote' })
      else await pair.coprime.command({ command: 'invalidate' })
      await pair.coprime.until('resyncing', ({ volume }) => /^Sync/.test(volume.connection))
      await pair.kernel.until('resyncing', ({ connection }) => /^Sync/.test(connection))
      await pair.coprime.primary()
      await pair.kernel.drbdadm('primary r0')
      const nbd = await pair.coprime.nbd()
      const mine = async (): Promise<void> => {
        for (let i = 0; i < 100; i++) await nbd.write(((i * 41) % 120) * MIB, randomBytes(16 * KIB))
      }
      const script = `for i in $(seq 0 99); do gdd if=/dev/urandom of=/dev/drbd0 bs=8192 count=1 seek=$(( (i * 29 % 120) * ${MIB} + 65536 )) oflag=direct,seek_bytes conv=notrunc 2>/dev/null || exit 1; done`
      await Promise.all([mine(), pair.guest.sh(script, 120_000)])
      await pair.finish()
    })
  }

  for (const source of ['coprime', 'kernel'] as const) {
    row(`a fixed rate is kept, ${source} is the source`, async (pair) => {
      const rateMib = 4
      await pair.inSync({ disk: { 'c-plan-ahead': 0, 'resync-rate': `${rateMib}M` } })
      const beganMs = performance.now()
      await pair.coprime.command({ command: source === 'coprime' ? 'invalidate-remote' : 'invalidate' })
      await pair.coprime.until('resyncing', ({ volume }) => /^Sync/.test(volume.connection))
      await pair.clean()
      const tookMs = performance.now() - beganMs
      // A slow machine may take longer, but nothing makes it faster than it is told to be.
      assert.ok(tookMs >= (0.8 * 1000 * 16) / rateMib, `16 MiB in ${tookMs} ms`)
      await pair.finish()
    })
  }

  for (const source of ['coprime', 'kernel'] as const) {
    row(`c-plan-ahead: c-max-rate is kept, ${source} is the source`, async (pair) => {
      const rateMib = 4
      await pair.inSync({ disk: { ...CONTROLLER, 'c-max-rate': `${rateMib}M` } })
      const beganMs = performance.now()
      await pair.coprime.command({ command: source === 'coprime' ? 'invalidate-remote' : 'invalidate' })
      await pair.coprime.until('resyncing', ({ volume }) => /^Sync/.test(volume.connection))
      await pair.clean()
      const tookMs = performance.now() - beganMs
      assert.ok(tookMs >= (0.8 * 1000 * 16) / rateMib, `16 MiB in ${tookMs} ms`)
      await pair.finish()
    })
  }

  row(
    'c-plan-ahead: coprime as target asks for no more than c-fill-target while its client is at work',
    async (pair) => {
      const inFlight = new ResyncInFlight(pair)
      // One request more may begin while there is room for a part of it.
      const bytesMax = 2 * FILL_SECTORS * 512
      const disk = { ...CONTROLLER, 'c-max-rate': '200M', 'c-min-rate': 1 }
      // A kernel as source gives way by itself, and would leave us nothing to do.
      await pair.inSync({ device: 'large', disk, kernel: { disk: { 'c-min-rate': 0 } } })
      await pair.coprime.command({ command: 'invalidate' })
      await pair.coprime.until('resyncing', ({ volume }) => volume.connection === 'SyncTarget')
      await pair.coprime.primary()
      const nbd = await pair.coprime.nbd()
      let isOver = false
      const client = async (place: number): Promise<void> => {
        for (let i = 0; !isOver; i++) await nbd.write((((i * 37) % 30) + place * 30) * MIB, randomBytes(4 * KIB))
      }
      // When it is done the resync knows of clients, and all that was asked for before has passed: it is ahead in the stream.
      await nbd.write(0, randomBytes(4 * KIB))
      const clients = Promise.all([0, 1, 2, 3].map(client))
      await inFlight.untilAtMost(bytesMax)
      await new Promise((resolve) => setTimeout(resolve, 2000))
      const { largestBytes } = inFlight
      inFlight.stop()
      assert.equal((await pair.coprime.state()).volume.connection, 'SyncTarget', 'the resync goes on')
      isOver = true
      await clients
      assert.ok(largestBytes <= bytesMax, `${largestBytes} bytes were in flight`)
      await pair.clean()
      await pair.finish()
    },
  )

  row("what the kernel's administrator changes on a live connection counts for coprime as target", async (pair) => {
    await pair.inSync({ disk: { ...CONTROLLER, 'c-max-rate': '200M' } })
    await pair.guest.sh('/lib/drbd/drbdsetup-84 disk-options 0 --c-plan-ahead=0 --resync-rate=4M 2>&1')
    const beganMs = performance.now()
    await pair.coprime.command({ command: 'invalidate' })
    await pair.coprime.until('resyncing', ({ volume }) => /^Sync/.test(volume.connection))
    await pair.clean()
    const tookMs = performance.now() - beganMs
    assert.ok(tookMs >= (0.8 * 1000 * 16) / 4, `16 MiB in ${tookMs} ms`)
    await pair.finish()
  })

  for (const source of ['coprime', 'kernel'] as const) {
    row(`paused and resumed by either side, ${source} is the source`, async (pair) => {
      await pair.inSync({ device: 'large', disk: { 'resync-rate': '24M' } })
      await pair.coprime.command({ command: source === 'coprime' ? 'invalidate-remote' : 'invalidate' })
      const letter = source === 'coprime' ? 'S' : 'T'
      const here = `PausedSync${letter}`
      const there = `PausedSync${letter === 'S' ? 'T' : 'S'}`
      const paused = async (): Promise<void> => {
        await pair.coprime.until('paused', ({ volume }) => volume.connection === here)
        await pair.kernel.until('paused', ({ connection }) => connection === there)
      }
      await pair.coprime.until('resyncing', ({ volume }) => /^Sync/.test(volume.connection))
      await pair.coprime.command({ command: 'pause-sync' })
      await paused()
      await pair.kernel.drbdadm('pause-sync r0')
      await pair.coprime.command({ command: 'resume-sync' })
      await paused()
      const { outOfSyncBlocks } = (await pair.coprime.state()).volume
      assert.ok(outOfSyncBlocks > 0)
      await pair.coprime.primary()
      await (await pair.coprime.nbd()).write(100 * MIB, randomBytes(64 * KIB))
      await pair.kernel.drbdadm('resume-sync r0')
      await pair.finish()
    })
  }

  for (const source of ['coprime', 'kernel'] as const) {
    row(`cut in the middle of a resync with ${source} as source, and on`, async (pair) => {
      await pair.inSync({ device: 'large', disk: { 'resync-rate': '24M' } })
      pair.allow(LOST)
      await pair.coprime.command({ command: source === 'coprime' ? 'invalidate-remote' : 'invalidate' })
      const left = source === 'coprime' ? 'SyncSource' : 'SyncTarget'
      const started = (total: number, left: number): boolean => left < total - 2000
      await pair.coprime.until(
        'in the middle',
        ({ volume }) => volume.connection === left && started(volume.resyncTotalBlocks, volume.resyncLeftBlocks),
      )
      pair.relay.cut()
      await pair.apart()
      pair.relay.heal()
      await pair.finish()
    })
  }
})

/** Resync data that was asked for and is not there, told by the packets that pass; the most since `begin`. */
class ResyncInFlight {
  readonly #log: PacketLog
  #bytes = 0
  largestBytes = 0

  /** Before the connection is made: packets are decoded from its beginning on. */
  constructor(pair: KernelPair) {
    this.#log = new PacketLog(pair.relay, (line) => {
      const bytes = Number(/ (?:sizeBytes|payload)=(\d+)/.exec(line)?.[1] ?? 0)
      if (/P_RS_(DATA_REQUEST|THIN_REQ)/.test(line)) this.#bytes += bytes
      if (/P_RS_(DATA_REPLY|DEALLOCATED)/.test(line)) this.#bytes -= bytes
      this.largestBytes = Math.max(this.largestBytes, this.#bytes)
    })
  }

  /** Waits, and begins to look for the most. */
  async untilAtMost(bytes: number): Promise<void> {
    const deadlineMs = performance.now() + 30_000
    while (this.#bytes > bytes) {
      assert.ok(performance.now() < deadlineMs, `still ${this.#bytes} bytes in flight`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    this.largestBytes = this.#bytes
  }

  stop(): void {
    this.#log.stop()
  }
}

/** The other one goes away, `source` writes, the other comes back. `same`: half of it is what was there before. */
async function missedWrites(
  pair: KernelPair,
  source: 'coprime' | 'kernel',
  options: RowOptions,
  same = false,
): Promise<void> {
  await pair.inSync(options)
  const old = randomBytes(256 * KIB)
  const fresh = randomBytes(32 * KIB)
  const write = await writer(pair, source)
  await write(0, old)
  if (source === 'coprime') await pair.kernel.drbdadm('disconnect r0')
  else await pair.coprime.command({ command: 'disconnect' })
  if (source === 'coprime') await pair.coprime.until('alone', ({ volume }) => volume.connection === 'WFConnection')
  else await pair.kernel.until('alone', ({ connection }) => connection === 'WFConnection')
  await write(0, same ? old.subarray(0, 128 * KIB) : randomBytes(128 * KIB))
  await write(20 * KIB, fresh)
  await write(9 * MIB, fresh)
  if (source === 'coprime') await pair.kernel.drbdadm('connect r0')
  else await pair.coprime.command({ command: 'connect' })
  await pair.clean()
  const { volume } = await pair.coprime.state()
  const blocks = pair.coprime.logged(/begins: 40 blocks of 4 KiB differ/)
  assert.equal(blocks, 1, 'as many blocks as were written')
  if (!same && source === 'kernel') assert.equal(volume.resyncBytes, 160 * KIB)
}

async function writer(
  pair: KernelPair,
  side: 'coprime' | 'kernel',
): Promise<(offsetBytes: number, data: Uint8Array) => Promise<void>> {
  if (side === 'kernel') {
    await pair.kernel.drbdadm('primary r0')
    return (offsetBytes, data) => pair.kernel.write(offsetBytes, data)
  }
  await pair.coprime.primary()
  const nbd = await pair.coprime.nbd()
  return async (offsetBytes, data) => {
    await nbd.write(offsetBytes, data)
    await nbd.flush()
  }
}
