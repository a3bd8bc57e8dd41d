// Goal: every version of the protocol that the kernel can be made to use works, with each of its header forms.
// Method: the relay rewrites the versions and features that both offer in P_CONNECTION_FEATURES; then writes of all sizes from
// both sides, missed writes and their resync, verify, role changes, disconnect.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, MIB, rows } from './pair.ts'

const KIB = 1024
/** P_CONNECTION_FEATURES in its header of 8 bytes: magic, 0xfffe, length. */
const FEATURES_HEADER = Buffer.from('83740267fffe', 'hex')

rows('protocol versions', (row) => {
  for (const [version, features] of [
    [86, 0],
    [88, 0],
    [89, 0],
    [94, 0],
    [95, 0],
    [96, 0],
    [97, 0],
    [99, 0],
    [100, 1],
    [101, 0],
  ] as const) {
    row(`version ${version}, features ${features}`, async (pair) => {
      await pair.begin({ device: 'small', net: version >= 88 ? { 'verify-alg': 'sha1' } : {} })
      holdTo(pair, version, features)
      await pair.create()
      await pair.up()
      await pair.connected()
      assert.equal((await pair.coprime.state()).agreedProtocolVersion, version)
      await pair.coprime.command({ command: 'primary', force: true })
      await pair.clean(150_000)
      await writeFromCoprime(pair)
      await pair.coprime.secondary()
      await writeFromKernel(pair)
      if (version >= 88) {
        await pair.coprime.command({ command: 'verify' })
        await pair.coprime.until('done', ({ volume }) => volume.connection === 'Connected')
        await pair.clean()
      }
      // A kernel takes its time for it; each way of ending a verify is enough.
      if ([88, 96, 97, 100].includes(version)) {
        await pair.kernel.drbdadm('verify r0')
        await pair.clean()
      }
      await missWrites(pair)
      await pair.finish()
    })
  }
})

function holdTo(pair: KernelPair, version: number, features: number): void {
  pair.relay.tamper = (_from, chunk) => {
    const at = chunk.indexOf(FEATURES_HEADER)
    if (at < 0 || chunk.length < at + 20) return
    chunk.writeUInt32BE(features, at + 12)
    chunk.writeUInt32BE(version, at + 16)
  }
}

async function writeFromCoprime(pair: KernelPair): Promise<void> {
  const nbd = await pair.coprime.nbd()
  await nbd.write(0, randomBytes(512))
  await nbd.write(64 * KIB - 512, randomBytes(MIB))
  await nbd.write(2 * MIB, randomBytes(4 * KIB), { fua: true })
  await nbd.writeZeroes(128 * KIB, 256 * KIB)
  await nbd.trim(512 * KIB, 128 * KIB)
  await nbd.flush()
}

async function writeFromKernel(pair: KernelPair): Promise<void> {
  await pair.kernel.drbdadm('primary r0')
  await pair.kernel.write(2 * MIB + 8 * KIB, randomBytes(512))
  await pair.kernel.writeRandom(2.5 * MIB, 512 * KIB, 256 * KIB)
  await pair.kernel.write(3 * MIB, randomBytes(4 * KIB), 'dsync')
  await pair.kernel.drbdadm('secondary r0')
}

async function missWrites(pair: KernelPair): Promise<void> {
  await pair.kernel.drbdadm('primary r0')
  await pair.coprime.command({ command: 'disconnect' })
  await pair.kernel.until('alone', ({ connection }) => connection === 'WFConnection')
  await pair.kernel.writeRandom(3.5 * MIB, 64 * KIB, 32 * KIB)
  await pair.coprime.command({ command: 'connect' })
  await pair.clean()
}
