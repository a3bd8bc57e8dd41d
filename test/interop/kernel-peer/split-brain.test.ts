// Goal: two Primaries that went on alone come to the kernel's own decision, whoever is to lose its changes, under every policy
// of after-sb-2pri; and what was decided against is not touched before an administrator says so.
// Method: both are Primary and part; the loser writes less (discard-least-changes), then both connect.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, MIB, readRange, rows } from './pair.ts'

const KIB = 1024
const TALK = /[Ss]plit[- ][Bb]rain|given up|helper command|sock_recvmsg|short read|error receiving|rr-conflict/

type Side = 'coprime' | 'kernel'
const other = (side: Side): Side => (side === 'coprime' ? 'kernel' : 'coprime')

rows('split brain of two Primaries', (row) => {
  for (const loser of ['coprime', 'kernel'] as const) {
    for (const policy of ['disconnect', 'call-pri-lost-after-sb', 'violently-as0p']) {
      row(`after-sb-2pri ${policy}, ${loser} has fewer changes: it keeps them, StandAlone`, async (pair) => {
        await split(pair, loser, { 'after-sb-2pri': policy })
        const kept = image(pair, loser).subarray(0, 2 * MIB)
        await connectBoth(pair)
        await until(pair, loser, /^StandAlone$/)
        // Who wins does not hear of the loser's decision: it goes on trying, unless nobody wins.
        if (policy === 'disconnect') await until(pair, other(loser), /^StandAlone$/)
        else await until(pair, other(loser), /^(WFConnection|Unconnected|NetworkFailure|BrokenPipe)$/)
        assert.ok(
          image(pair, loser)
            .subarray(0, 2 * MIB)
            .equals(kept),
          'nothing was overwritten',
        )
        await discard(pair, loser)
        await pair.finish()
      })
    }

    row(
      `after-sb-2pri violently-as0p and rr-conflict violently, ${loser} has fewer changes: it is resynced as Primary`,
      async (pair) => {
        await split(pair, loser, { 'after-sb-2pri': 'violently-as0p', 'rr-conflict': 'violently' })
        const kept = image(pair, other(loser)).subarray(0, 2 * MIB)
        await connectBoth(pair)
        await pair.clean()
        assert.equal((await pair.coprime.state()).role, 'Primary')
        assert.equal((await pair.kernel.state()).role, 'Primary')
        assert.ok(
          image(pair, loser)
            .subarray(0, 2 * MIB)
            .equals(kept),
          'the data of the other one',
        )
        await pair.finish()
      },
    )
  }
})

/** Both Primary and StandAlone, each with changes of its own. */
async function split(pair: KernelPair, loser: Side, net: Readonly<Record<string, string>>): Promise<void> {
  await pair.inSync({ net: { 'allow-two-primaries': true, 'after-sb-0pri': 'discard-least-changes', ...net } })
  pair.allow(TALK)
  await pair.coprime.primary()
  await pair.kernel.drbdadm('primary r0')
  await pair.kernel.drbdadm('disconnect r0')
  await pair.coprime.command({ command: 'disconnect' })
  const blocks = (side: Side): number => (side === loser ? 4 : 16)
  const nbd = await pair.coprime.nbd()
  await nbd.write(64 * KIB, randomBytes(blocks('coprime') * 4 * KIB))
  await nbd.flush()
  await pair.kernel.writeRandom(96 * KIB, blocks('kernel') * 4 * KIB)
}

async function connectBoth(pair: KernelPair): Promise<void> {
  await Promise.all([pair.coprime.command({ command: 'connect' }), pair.kernel.drbdadm('connect r0')])
}

async function until(pair: KernelPair, side: Side, connection: RegExp): Promise<void> {
  if (side === 'coprime') await pair.coprime.until(`${connection}`, (state) => connection.test(state.connection))
  else await pair.kernel.until(`${connection}`, (state) => connection.test(state.connection))
}

/** The administrator decides as the policy would have. */
async function discard(pair: KernelPair, loser: Side): Promise<void> {
  if (loser === 'coprime') await pair.coprime.secondary()
  else await pair.kernel.drbdadm('secondary r0')
  const isAlone = async (side: Side): Promise<boolean> =>
    (side === 'coprime' ? await pair.coprime.state() : await pair.kernel.state()).connection === 'StandAlone'
  if (await isAlone(other(loser))) {
    if (loser === 'coprime') await pair.kernel.drbdadm('connect r0')
    else await pair.coprime.command({ command: 'connect' })
  }
  if (loser === 'coprime') await pair.coprime.command({ command: 'connect', discardMyData: true })
  else await pair.kernel.drbdadm('connect --discard-my-data r0')
}

const image = (pair: KernelPair, side: Side): Buffer =>
  readRange(side === 'coprime' ? pair.coprimeImage : pair.kernelImage, 0, 2 * MIB)
