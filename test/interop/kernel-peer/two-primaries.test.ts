// Goal: both sides are Primary and write, also to the same blocks at the same time; both disks are identical afterwards, and no
// request is lost or stuck.
// Method: writes from clients of both into a few blocks without a pause, over a link with a delay, so that they cross; the row says
// who holds the resolve-conflicts flag (whoever accepted the meta connection), by which side may dial.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, MIB, rows } from './pair.ts'

const KIB = 1024
/** Of each row: some thousands in all. */
const CONFLICTS_MIN = 250
const KERNEL_WRITES = 640
const KERNEL_CLIENTS = 4
/** Each with a client of ours that writes there without a pause. */
const PLACES = 16
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
        // A kernel complains when two of our writes, both within one that it is to send again, end at once (docs/kernel-peer.md).
        if (holder === 'coprime' && shape.name === 'partial') pair.allow(/RQ_NET_PENDING/)
        pair.relay.delay(5)
        const verdicts = countVerdicts(pair, holder)
        const writes = await conflict(pair, shape)
        console.log(`${verdicts()} conflicts: ${KERNEL_WRITES} writes of the kernel's clients, ${writes} of coprime's`)
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

/**
 * The kernel's clients write a small area again and again, each in one go, while each place of it is being written by a client
 * of ours all the time: nearly every write of the kernel meets one. Returns how many writes of ours there were.
 */
async function conflict(pair: KernelPair, shape: Shape): Promise<number> {
  const { kernelBytes, coprimeBytes, shiftBytes } = shape
  const nbd = await pair.coprime.nbd()
  const placeBytes = Math.max(kernelBytes, coprimeBytes)
  let isOver = false
  let writes = 0
  const mine = async (_: unknown, place: number): Promise<void> => {
    // One that would meet writes of two of the kernel's clients at once: the kernel gets stuck (docs/kernel-peer.md).
    if (shape.name === 'partial' && (place + 1) % (PLACES / KERNEL_CLIENTS) === 0) return
    for (; !isOver; writes++) await nbd.write(place * placeBytes + shiftBytes, randomBytes(coprimeBytes))
  }
  // Each has a part of the area for itself.
  const count = (PLACES * placeBytes) / kernelBytes / KERNEL_CLIENTS
  const rounds = Math.ceil(KERNEL_WRITES / (KERNEL_CLIENTS * count))
  const loop = (_: unknown, client: number): string => {
    const to = `of=/dev/drbd0 seek=${client * count} bs=${kernelBytes} count=${count}`
    const one = `gdd if=/dev/urandom ${to} oflag=direct conv=notrunc status=none`
    return `(i=0; while [ $i -lt ${rounds} ]; do ${one} || exit 1; i=$((i + 1)); done) &`
  }
  const kernel = pair.guest.sh(`${Array.from({ length: KERNEL_CLIENTS }, loop).join(' ')} wait`, 200_000)
  const ours = Promise.all(Array.from({ length: PLACES }, mine))
  try {
    await kernel
  } finally {
    isOver = true
  }
  await ours
  await nbd.flush()
  return writes
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
