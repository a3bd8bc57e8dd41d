// Goal: cram-hmac-alg with the kernel: right, wrong and missing secrets have the ends that two kernels give them.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, rows } from './pair.ts'

const REFUSED =
  /[Aa]uthent|Unexpected data packet|ProtocolError|error receiving|short read|sock_recvmsg|given up|expected/

const secret = (algorithm: string, text: string): Record<string, string> => ({
  'cram-hmac-alg': algorithm,
  'shared-secret': text,
})

rows('authentication', (row) => {
  for (const algorithm of ['sha1', 'sha256', 'md5']) {
    row(`${algorithm}, the same secret`, async (pair) => {
      await pair.inSync({ net: secret(algorithm, 'one secret for both') })
      await pair.coprime.primary()
      await (await pair.coprime.nbd()).write(0, randomBytes(8192))
      await pair.finish()
    })
  }

  row('different secrets: both end StandAlone', async (pair) => {
    await pair.begin({ coprime: { net: secret('sha1', 'ours') }, kernel: { net: secret('sha1', 'theirs') } })
    pair.allow(REFUSED)
    await pair.create()
    await pair.up()
    await pair.coprime.until('StandAlone', ({ connection }) => connection === 'StandAlone')
    await pair.kernel.until('StandAlone', ({ connection }) => connection === 'StandAlone')
    await pair.checkLogs()
  })

  row('a secret on one side only: no connection; the other one set right, they connect', async (pair) => {
    for (const side of ['coprime', 'kernel'] as const) {
      await pair.begin({ [side]: { net: secret('sha1', 'only one has it') } })
      pair.allow(REFUSED)
      await pair.create()
      await pair.up()
      if (side === 'coprime') await pair.coprime.until('StandAlone', ({ connection }) => connection === 'StandAlone')
      else await pair.kernel.until('StandAlone', ({ connection }) => connection === 'StandAlone')
      await pair.checkLogs()
    }
    await setRight(pair)
    await pair.finish()
  })
})

async function setRight(pair: KernelPair): Promise<void> {
  await pair.coprime.stop()
  await pair.kernel.drbdadm('down r0')
  await pair.configure({ net: secret('sha1', 'only one has it') })
  await pair.coprime.start()
  await pair.up()
  await pair.connected()
  await pair.kernel.drbdadm('new-current-uuid --clear-bitmap r0/0')
  const state = await pair.coprime.state()
  assert.equal(state.connection, 'Connected')
}
