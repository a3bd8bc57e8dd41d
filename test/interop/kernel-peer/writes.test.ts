// Goal: what either side writes is on both disks, in every protocol, of every kind and size that a client can ask for.
// Method: known and random data through coprime's NBD export and through the kernel's /dev/drbd0; the other side reads it, and
// the disks are compared at the end. Packets are altered by the relay for the rows about integrity.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, MIB, rows } from './pair.ts'

const KIB = 1024

rows('writes', (row) => {
  for (const protocol of ['A', 'B', 'C']) {
    const add = protocol === 'C' ? row.short : row
    add(`protocol ${protocol}: all kinds and sizes, coprime is Primary`, async (pair) => {
      await pair.inSync({ net: { protocol } })
      await writeAllFromCoprime(pair)
      await pair.finish()
    })
    add(`protocol ${protocol}: all kinds and sizes, the kernel is Primary`, async (pair) => {
      await pair.inSync({ net: { protocol } })
      await writeAllFromKernel(pair)
      await pair.finish()
    })
  }

  row('the other side reads what was written, after it has taken over', async (pair) => {
    await pair.inSync()
    const [first, second] = [randomBytes(128 * KIB), randomBytes(128 * KIB)]
    await pair.coprime.primary()
    await (await pair.coprime.nbd()).write(MIB, first)
    await pair.coprime.secondary()
    await pair.kernel.drbdadm('primary r0')
    assert.deepEqual(await pair.kernel.read(MIB, first.length), first)
    await pair.kernel.write(3 * MIB, second)
    await pair.kernel.drbdadm('secondary r0')
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    assert.deepEqual(Buffer.from(await nbd.read(MIB, first.length)), first)
    assert.deepEqual(Buffer.from(await nbd.read(3 * MIB, second.length)), second)
    await pair.finish()
  })

  row('the kernel cannot discard: zeroes and discards of coprime reach it all the same', async (pair) => {
    await pair.inSync({ device: 'noDiscard' })
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    await nbd.write(0, randomBytes(2 * MIB))
    await nbd.trim(64 * KIB, 256 * KIB)
    await nbd.writeZeroes(512 * KIB, 256 * KIB)
    await nbd.writeZeroes(MIB, 256 * KIB, { noHole: true })
    assert.ok((await nbd.read(64 * KIB, 256 * KIB)).every((byte) => byte === 0))
    await pair.finish()
  })

  for (const algorithm of ['crc32c', 'sha1', 'md5']) {
    row(`data-integrity-alg ${algorithm}, both write`, async (pair) => {
      await pair.inSync({ net: { 'data-integrity-alg': algorithm, 'allow-two-primaries': true } })
      await pair.coprime.primary()
      await pair.kernel.drbdadm('primary r0')
      await (await pair.coprime.nbd()).write(4 * KIB, randomBytes(200 * KIB))
      await pair.kernel.writeRandom(MIB, 256 * KIB, 32 * KIB)
      await pair.finish()
    })
  }

  row('data-integrity-alg: flushes of coprime, which carry no data that a digest could be of', async (pair) => {
    await pair.inSync({ net: { 'data-integrity-alg': 'sha1' } })
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    for (let i = 0; i < 5; i++) {
      await nbd.write(i * 4 * KIB, randomBytes(4 * KIB))
      await nbd.flush()
    }
    await pair.finish()
  })

  for (const writer of ['coprime', 'kernel'] as const) {
    row(`data-integrity-alg: a bit that turns on the way is detected, ${writer} writes`, async (pair) => {
      await pair.inSync({ net: { 'data-integrity-alg': 'crc32c' } })
      pair.allow(/digest|Digest|integrity|ProtocolError|error receiving|short read|sock_recvmsg/)
      let altered = false
      pair.relay.tamper = (from, chunk) => {
        if (altered || from !== writer || chunk.length < 1000) return
        altered = true
        chunk[chunk.length - 100] = (chunk[chunk.length - 100] ?? 0) ^ 1
      }
      if (writer === 'coprime') {
        await pair.coprime.primary()
        await (await pair.coprime.nbd()).write(20 * KIB, randomBytes(4 * KIB))
        await pair.kernel.untilLogged(/[Dd]igest .*mismatch|Digest integrity check FAILED/)
      } else {
        await pair.kernel.drbdadm('primary r0')
        await pair.kernel.writeRandom(20 * KIB, 4 * KIB)
        assert.ok(pair.coprime.logged(/data integrity/) > 0)
      }
      assert.ok(altered)
      await pair.finish()
    })
  }

  row('activity log full on both sides: writes all over a larger device', async (pair) => {
    await pair.inSync({ device: 'large', disk: { 'al-extents': 7 }, net: { 'allow-two-primaries': true } })
    await pair.coprime.primary()
    await pair.kernel.drbdadm('primary r0')
    const nbd = await pair.coprime.nbd()
    const mine = Array.from({ length: 60 }, (_, i) => nbd.write(((i * 37) % 126) * MIB, randomBytes(8 * KIB)))
    const script = `for i in $(seq 0 59); do gdd if=/dev/urandom of=/dev/drbd0 bs=8192 count=1 seek=$(( (i * 53 % 126) * ${MIB} + 524288 )) oflag=direct,seek_bytes conv=notrunc 2>/dev/null || exit 1; done`
    await Promise.all([...mine, pair.guest.sh(script, 120_000)])
    await pair.finish()
  })
})

async function writeAllFromCoprime(pair: KernelPair): Promise<void> {
  await pair.coprime.primary()
  const nbd = await pair.coprime.nbd()
  await nbd.write(0, randomBytes(512))
  await nbd.write(7 * 512, randomBytes(3 * 512))
  await nbd.write(64 * KIB - 512, randomBytes(4 * KIB))
  await nbd.write(128 * KIB, randomBytes(1000 * 512), { fua: true })
  await nbd.write(MIB + 512, randomBytes(3 * MIB))
  await Promise.all(Array.from({ length: 64 }, (_, i) => nbd.write(5 * MIB + i * 12 * KIB, randomBytes(8 * KIB))))
  await nbd.flush()
  await nbd.trim(2 * MIB, 512 * KIB)
  await nbd.trim(2 * MIB + 700 * KIB + 512, 5 * KIB)
  await nbd.writeZeroes(3 * MIB, 64 * KIB)
  await nbd.writeZeroes(3 * MIB + 128 * KIB, 64 * KIB, { noHole: true })
  await nbd.writeZeroes(7 * MIB, 4 * MIB, { fua: true })
  await nbd.flush()
  await nbd.write(nbd.sizeBytes - 512, randomBytes(512))
  await Promise.all([nbd.flush(), nbd.flush()])
}

async function writeAllFromKernel(pair: KernelPair): Promise<void> {
  const { guest, kernel } = pair
  await kernel.drbdadm('primary r0')
  await kernel.write(0, randomBytes(512))
  await kernel.write(7 * 512, randomBytes(3 * 512))
  await kernel.write(64 * KIB - 512, randomBytes(4 * KIB))
  await kernel.write(128 * KIB, randomBytes(12 * KIB), 'dsync')
  await kernel.writeRandom(MIB + 512, 3 * MIB, MIB)
  const parallel =
    'for i in 0 1 2 3; do gdd if=/dev/urandom of=/dev/drbd0 bs=8192 count=16 seek=$((640 + i * 16)) oflag=direct conv=notrunc 2>/dev/null & done; wait'
  await guest.sh(parallel)
  await guest.sh('gdd if=/dev/urandom of=/dev/drbd0 bs=4096 count=50 seek=2000 conv=notrunc,fsync 2>&1')
  await guest.sh(`ublkdiscard -o ${2 * MIB} -l ${512 * KIB} /dev/drbd0`)
  await guest.sh(`ublkdiscard -o ${2 * MIB + 700 * KIB + 512} -l ${5 * KIB} /dev/drbd0`)
  await guest.sh(`ublkdiscard -z -o ${3 * MIB} -l ${64 * KIB} /dev/drbd0`)
  await guest.sh(`ufallocate -z -o ${3 * MIB + 128 * KIB} -l ${64 * KIB} /dev/drbd0`)
  await guest.sh(`ufallocate -p -o ${7 * MIB} -l ${4 * MIB} /dev/drbd0`)
  await guest.sh('sync')
  const last = ((await kernel.sizeSectors()) - 1) * 512
  await kernel.write(last, randomBytes(512))
}
