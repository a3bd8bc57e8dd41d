// Goal: both sides are Primary and write, also to the same blocks at the same time; both disks are identical afterwards, and no
// request is lost or stuck.
// Method: thousands of writes from both clients into a few blocks, over a link with a delay, so that they cross; the row says
// who holds the resolve-conflicts flag (whoever accepted the meta connection), by which side may dial.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, MIB, rows } from './pair.ts'

const KIB = 1024
/** Of about 800 writes into four places. */
const CONFLICTS_MIN = 20
const TWO_PRIMARIES = { 'allow-two-primaries': true }

interface Shape {
  readonly name: string
  /** Bytes of each write of the kernel's client and of coprime's, and by how much coprime's are shifted. */
  readonly kernelBytes: number
  readonly coprimeBytes: number
  readonly shiftBytes: number
}

const SHAPES: readonly Shape[] = [
  { name: 'equal', kernelBytes: 4096, coprimeBytes: 4096, shiftBytes: 0 },
  { name: 'contained', kernelBytes: 16 * KIB, coprimeBytes: 4096, shiftBytes: 4096 },
  { name: 'containing', kernelBytes: 4096, coprimeBytes: 16 * KIB, shiftBytes: 0 },
  { name: 'partial', kernelBytes: 8 * KIB, coprimeBytes: 8 * KIB, shiftBytes: 4096 },
]

rows('two Primaries', (row) => {
  row('distinct writes from both', async (pair) => {
    await bothPrimary(pair)
    const nbd = await pair.coprime.nbd()
    const mine = Promise.all(Array.from({ length: 200 }, (_, i) => nbd.write(i * 8 * KIB, randomBytes(8 * KIB))))
    await Promise.all([mine, pair.kernel.writeRandom(8 * MIB, 4 * MIB, 16 * KIB)])
    await nbd.flush()
    await pair.finish()
  })

  for (const holder of ['coprime', 'kernel'] as const) {
    for (const shape of SHAPES) {
      const isShort = shape.name === (holder === 'kernel' ? 'equal' : 'partial')
      const add = isShort ? row.short : row
      add(`conflicts, ${shape.name}, ${holder} holds the flag`, async (pair) => {
        await bothPrimary(pair, holder)
        // A kernel that has told a peer to retry or that a write is superseded never closes that write's epoch.
        if (holder === 'kernel') pair.allow(/current_epoch->list not empty/)
        pair.relay.delay(5)
        const verdicts = countVerdicts(pair, holder)
        await conflict(pair, shape, 160)
        assert.ok(verdicts() >= CONFLICTS_MIN, `${verdicts()} conflicts`)
        await pair.finish()
      })
    }
  }
})

/** Who accepts the meta connection holds the flag: a side that cannot dial accepts both. */
async function bothPrimary(pair: KernelPair, holder?: 'coprime' | 'kernel'): Promise<void> {
  await pair.begin({ net: TWO_PRIMARIES })
  if (holder !== undefined) pair.relay.refuse(holder)
  await pair.create()
  await pair.up()
  await pair.connected()
  await pair.kernel.drbdadm('new-current-uuid --clear-bitmap r0/0')
  await pair.clean()
  if (holder !== undefined) assert.equal((await pair.coprime.state()).resolveConflicts, holder === 'coprime')
  await pair.coprime.primary()
  await pair.kernel.drbdadm('primary r0')
}

/** Both write the same few places over and over. */
async function conflict(pair: KernelPair, shape: Shape, rounds: number): Promise<void> {
  const nbd = await pair.coprime.nbd()
  const places = [0, 64 * KIB, 128 * KIB, 192 * KIB]
  const mine = async (place: number): Promise<void> => {
    for (let i = 0; i < rounds; i++) await nbd.write(place + shape.shiftBytes, randomBytes(shape.coprimeBytes))
  }
  const one = `gdd if=/dev/urandom of=/dev/drbd0 bs=${shape.kernelBytes} count=1 oflag=direct,seek_bytes conv=notrunc status=none seek=`
  const loops = places.map(
    (place) => `(i=0; while [ $i -lt ${Math.ceil(rounds / 4)} ]; do ${one}${place} || exit 1; i=$((i + 1)); done) &`,
  )
  await Promise.all([...places.map(mine), pair.guest.sh(`${loops.join(' ')} wait`, 200_000)])
  await nbd.flush()
}

/** P_SUPERSEDED and P_RETRY_WRITE that the holder of the flag sends: header of 16 bytes, volume 0. */
function countVerdicts(pair: KernelPair, holder: 'coprime' | 'kernel'): () => number {
  const headers = ['8620ec20000000180000', '8620ec200000002c0000'].map((text) => Buffer.from(text, 'hex'))
  let count = 0
  pair.relay.tamper = (from, chunk) => {
    if (from !== holder) return
    for (const header of headers)
      for (let at = chunk.indexOf(header); at >= 0; at = chunk.indexOf(header, at + 1)) count++
  }
  return () => count
}
