// Goal: online verify, started from either side, finds exactly the blocks that differ, and both sides count them alike.
// Method: blocks are altered on one backing disk behind the back of its owner; a reconnect then resyncs them.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, MIB, rows, writeRange } from './pair.ts'

const KIB = 1024
/** Blocks of 4 KiB: neighbours, lone ones, the first and the last (which is cut by the end of the device). */
const PLANTED = [0, 7, 8, 100, 800, 1013]

rows('verify', (row) => {
  for (const starter of ['coprime', 'kernel'] as const) {
    for (const algorithm of ['crc32c', 'sha1']) {
      row(`${starter} verifies equal disks, ${algorithm}`, async (pair) => {
        await pair.inSync({ device: 'small', net: { 'verify-alg': algorithm } })
        await fill(pair)
        await verify(pair, starter)
        assert.equal((await pair.coprime.state()).volume.outOfSyncBlocks, 0)
        await pair.finish()
      })
    }

    for (const damaged of ['coprime', 'kernel'] as const) {
      row(`${starter} verifies, blocks of ${damaged} were altered`, async (pair) => {
        await pair.inSync({ device: 'small', net: { 'verify-alg': 'sha1' } })
        pair.allow(/[Oo]ut of sync|verify found/)
        await fill(pair)
        const image = damaged === 'coprime' ? pair.coprimeImage : pair.kernelImage
        for (const block of PLANTED) writeRange(image, block * 4096, randomBytes(512))
        await verify(pair, starter)
        const { volume } = await pair.coprime.until('marked', (state) => state.volume.outOfSyncBlocks > 0)
        assert.equal(volume.outOfSyncBlocks, PLANTED.length)
        await pair.kernel.until('marked', ({ outOfSyncKib }) => outOfSyncKib === PLANTED.length * 4)
        await resyncWhatWasFound(pair)
        await pair.finish()
      })
    }

    row(`${starter} verifies while both write`, async (pair) => {
      await pair.inSync({ net: { 'verify-alg': 'crc32c', 'allow-two-primaries': true }, disk: { 'resync-rate': '4M' } })
      await pair.coprime.primary()
      await pair.kernel.drbdadm('primary r0')
      const nbd = await pair.coprime.nbd()
      const ended = verify(pair, starter)
      const mine = async (): Promise<void> => {
        for (let i = 0; i < 300; i++) await nbd.write(((i * 37) % 1000) * 8 * KIB, randomBytes(4 * KIB))
      }
      await Promise.all([mine(), pair.kernel.writeRandom(8 * MIB, 2 * MIB, 8 * KIB)])
      await ended
      assert.equal((await pair.coprime.state()).volume.outOfSyncBlocks, 0, 'nothing is taken for different')
      await pair.finish()
    })
  }
})

async function fill(pair: KernelPair): Promise<void> {
  await pair.coprime.primary()
  await (await pair.coprime.nbd()).write(0, randomBytes(MIB))
  await (await pair.coprime.nbd()).flush()
  await pair.coprime.secondary()
}

async function verify(pair: KernelPair, starter: 'coprime' | 'kernel'): Promise<void> {
  if (starter === 'coprime') await pair.coprime.command({ command: 'verify' })
  else await pair.kernel.drbdadm('verify r0')
  await pair.kernel.untilLogged(/Online [Vv]erify +(done|reached)/, 120_000)
  await pair.connected()
  assert.equal(pair.coprime.logged(/online verify ends/), 1)
}

/** The altered side gives way: it is a Secondary, and the other makes a new generation by becoming Primary alone. */
async function resyncWhatWasFound(pair: KernelPair): Promise<void> {
  await pair.coprime.primary()
  await pair.kernel.drbdadm('disconnect r0')
  await pair.coprime.until('alone', ({ volume }) => volume.connection === 'WFConnection')
  await pair.kernel.drbdadm('connect r0')
}
