// Goal: role changes, cluster-wide state changes, diskless operation and split brain come to the kernel's own decisions.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, MIB, type RowOptions, rows } from './pair.ts'

const KIB = 1024
const LOST = /sock_recvmsg|short read|error receiving/

rows('roles and states', (row) => {
  row('promotion is asked for and refused as between two kernels', async (pair) => {
    await pair.inSync()
    await pair.kernel.drbdadm('primary r0')
    assert.equal((await pair.coprime.refused({ command: 'primary' })).code, -1)
    await pair.kernel.drbdadm('secondary r0')
    await pair.coprime.until('Secondary there', ({ peerRole }) => peerRole === 'Secondary')
    await pair.coprime.primary()
    assert.match(await pair.kernel.refused('primary r0'), /Multiple primaries not allowed|State change failed/)
    await pair.coprime.secondary()
    for (let i = 0; i < 5; i++) {
      await pair.kernel.drbdadm('primary r0')
      await pair.coprime.until('Primary there', ({ peerRole }) => peerRole === 'Primary')
      await pair.kernel.drbdadm('secondary r0')
      await pair.coprime.until('Secondary there', ({ peerRole }) => peerRole === 'Secondary')
      await pair.coprime.primary()
      await pair.kernel.until('Primary there', ({ peerRole }) => peerRole === 'Primary')
      await pair.coprime.secondary()
      await pair.kernel.until('Secondary there', ({ peerRole }) => peerRole === 'Secondary')
    }
    await pair.finish()
  })

  row('coprime without a disk: reads and writes over the network, then the disk is back', async (pair) => {
    await pair.inSync()
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    const first = randomBytes(200 * KIB)
    await nbd.write(64 * KIB, first)
    await pair.coprime.command({ command: 'detach' })
    await pair.kernel.until('diskless there', ({ peerDisk }) => peerDisk === 'Diskless')
    assert.deepEqual(Buffer.from(await nbd.read(64 * KIB, first.length)), first)
    const second = randomBytes(128 * KIB)
    await nbd.write(100 * KIB, second)
    await nbd.writeZeroes(MIB, 64 * KIB)
    await nbd.flush()
    assert.deepEqual(Buffer.from(await nbd.read(100 * KIB, second.length)), second)
    await pair.coprime.command({ command: 'attach' })
    await pair.finish()
  })

  row('the kernel without a disk: it reads and writes at coprime, then the disk is back', async (pair) => {
    await pair.inSync()
    await pair.kernel.drbdadm('primary r0')
    const first = randomBytes(64 * KIB)
    await pair.kernel.write(64 * KIB, first)
    await pair.kernel.drbdadm('detach r0')
    await pair.coprime.until('diskless there', ({ volume }) => volume.peerDisk === 'Diskless')
    assert.deepEqual(await pair.kernel.read(64 * KIB, first.length), first)
    const second = randomBytes(64 * KIB)
    await pair.kernel.write(100 * KIB, second)
    assert.deepEqual(await pair.kernel.read(100 * KIB, second.length), second)
    await pair.kernel.drbdadm('attach r0')
    await pair.finish()
  })

  row('a Secondary loses its disk while the other side writes', async (pair) => {
    await pair.inSync()
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    await pair.kernel.drbdadm('detach r0')
    await nbd.write(0, randomBytes(256 * KIB))
    await pair.kernel.drbdadm('attach r0')
    await pair.clean()
    await pair.coprime.secondary()
    await pair.kernel.drbdadm('primary r0')
    await pair.coprime.command({ command: 'detach' })
    await pair.kernel.writeRandom(MIB, 256 * KIB, 32 * KIB)
    await pair.coprime.command({ command: 'attach' })
    await pair.finish()
  })

  row('outdate: an outdated side is not promoted, and is the target when the other is back', async (pair) => {
    await pair.inSync()
    await pair.coprime.primary()
    await pair.kernel.drbdadm('disconnect r0')
    await pair.kernel.drbdadm('outdate r0')
    assert.match(await pair.kernel.refused('primary r0'), /Need access to UpToDate data/)
    await (await pair.coprime.nbd()).write(0, randomBytes(8 * KIB))
    await pair.kernel.drbdadm('connect r0')
    await pair.clean()
    await pair.coprime.secondary()
    await pair.kernel.drbdadm('primary r0')
    await pair.coprime.command({ command: 'disconnect' })
    await pair.coprime.command({ command: 'outdate' })
    assert.equal((await pair.coprime.refused({ command: 'primary' })).code, -2)
    await pair.kernel.writeRandom(0, 8 * KIB)
    await pair.coprime.command({ command: 'connect' })
    await pair.finish()
  })

  row(
    'split brain without a policy: found, both StandAlone; --discard-my-data on either side ends it',
    async (pair) => {
      for (const victim of ['coprime', 'kernel'] as const) {
        await split(pair, {}, true, true)
        pair.allow(/[Ss]plit[- ][Bb]rain|given up|helper command|Connection lost/)
        await Promise.all([pair.coprime.command({ command: 'connect' }), pair.kernel.drbdadm('connect r0')])
        await pair.coprime.until('StandAlone', ({ connection }) => connection === 'StandAlone')
        await pair.kernel.until('StandAlone', ({ connection }) => connection === 'StandAlone')
        await pair.kernel.untilLogged(/Split-Brain detected/)
        await Promise.all([
          pair.coprime.command({ command: 'connect', discardMyData: victim === 'coprime' }),
          pair.kernel.drbdadm(`connect ${victim === 'kernel' ? '--discard-my-data ' : ''}r0`),
        ])
        await pair.finish()
      }
    },
  )

  for (const policy of [
    'discard-zero-changes',
    'discard-least-changes',
    'discard-younger-primary',
    'discard-older-primary',
  ]) {
    row(`split brain of two Secondaries, after-sb-0pri ${policy}`, async (pair) => {
      await split(pair, { 'after-sb-0pri': policy }, policy !== 'discard-zero-changes', true)
      pair.allow(/[Ss]plit[- ][Bb]rain|helper command/)
      const before = await kernelData(pair)
      await Promise.all([pair.coprime.command({ command: 'connect' }), pair.kernel.drbdadm('connect r0')])
      await pair.clean()
      // The kernel wrote more than coprime in every case, and became Primary last.
      const kernelWins = policy !== 'discard-younger-primary'
      await pair.kernel.drbdadm('primary r0')
      assert.equal((await pair.kernel.read(0, 64 * KIB)).equals(before), kernelWins)
      await pair.finish()
    })
  }

  for (const policy of ['discard-secondary', 'consensus', 'violently-as0p']) {
    row(`split brain with coprime as Primary, after-sb-1pri ${policy}`, async (pair) => {
      await split(pair, { 'after-sb-0pri': 'discard-least-changes', 'after-sb-1pri': policy }, true, false)
      pair.allow(/[Ss]plit[- ][Bb]rain|helper command/)
      await pair.coprime.primary()
      await Promise.all([pair.coprime.command({ command: 'connect' }), pair.kernel.drbdadm('connect r0')])
      await pair.finish()
    })
  }
})

/** Both went on alone; with `coprimeWrites` and `kernelWrites` each has data of its own. Both Secondary and StandAlone. */
async function split(
  pair: KernelPair,
  net: RowOptions['net'] = {},
  coprimeWrites = true,
  kernelWrites = true,
): Promise<void> {
  await pair.inSync({ net })
  pair.allow(LOST)
  await pair.kernel.drbdadm('disconnect r0')
  await pair.coprime.command({ command: 'disconnect' })
  await pair.coprime.primary()
  if (coprimeWrites) await (await pair.coprime.nbd()).write(32 * KIB, randomBytes(12 * KIB))
  await pair.coprime.secondary()
  await pair.kernel.drbdadm('primary --force r0')
  if (kernelWrites) await pair.kernel.writeRandom(0, 64 * KIB, 32 * KIB)
  await pair.kernel.drbdadm('secondary r0')
}

async function kernelData(pair: KernelPair): Promise<Buffer> {
  await pair.kernel.drbdadm('primary r0')
  const data = await pair.kernel.read(0, 64 * KIB)
  await pair.kernel.drbdadm('secondary r0')
  return data
}
