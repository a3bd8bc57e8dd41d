// Goal: coprime and a kernel find each other, whoever dials, and find each other again after every way of losing each other,
// with nothing lost that was written meanwhile.
// Method: a relay between the two refuses, is cut or goes silent; either side is stopped for longer than the other waits.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { type KernelPair, rows } from './pair.ts'

/** What a kernel says of a link that was taken away from it. */
const LOST_LINK = /sock_recvmsg|PingAck did not arrive|short read|error receiving|error while|Timed out|ko-count/
/** Impatient: these rows wait for time-outs. */
const IMPATIENT = { 'ping-int': 2, 'ping-timeout': 10, timeout: 15, 'connect-int': 3 }

rows('connect', (row) => {
  row.short('both dial; disconnect and connect again from either side', async (pair) => {
    await pair.inSync()
    assert.equal((await pair.coprime.state()).agreedProtocolVersion, 101)
    await pair.coprime.command({ command: 'disconnect' })
    await pair.kernel.until('alone', ({ connection }) => connection === 'WFConnection')
    await pair.coprime.command({ command: 'connect' })
    await pair.clean()
    await pair.kernel.drbdadm('disconnect r0')
    await pair.coprime.until('alone', ({ connection }) => connection === 'WFConnection')
    await pair.kernel.drbdadm('connect r0')
    await pair.clean()
    await pair.finish()
  })

  for (const dialler of ['coprime', 'kernel'] as const) {
    row(`only ${dialler} can dial`, async (pair) => {
      await pair.begin()
      await pair.create()
      pair.relay.refuse(dialler === 'coprime' ? 'kernel' : 'coprime')
      await pair.up()
      await pair.connected()
      await pair.kernel.drbdadm('new-current-uuid --clear-bitmap r0/0')
      await pair.clean()
      await pair.finish()
    })
  }

  row.short('cut under a Primary coprime: what it wrote alone is resynced', async (pair) => {
    await pair.inSync()
    pair.allow(LOST_LINK)
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    await nbd.write(0, randomBytes(65_536))
    pair.relay.cut()
    await pair.apart()
    await nbd.write(32_768, randomBytes(262_144))
    await nbd.flush()
    pair.relay.heal()
    await pair.finish()
  })

  row('cut under a Primary kernel: what it wrote alone is resynced', async (pair) => {
    await pair.inSync()
    pair.allow(LOST_LINK)
    await pair.kernel.drbdadm('primary r0')
    await pair.kernel.writeRandom(0, 65_536)
    pair.relay.cut()
    await pair.apart()
    await pair.kernel.writeRandom(32_768, 262_144)
    pair.relay.heal()
    await pair.finish()
  })

  row('cut while both sides have writes in flight', async (pair) => {
    await pair.inSync({ net: { 'allow-two-primaries': true } })
    pair.allow(LOST_LINK)
    await pair.coprime.primary()
    await pair.kernel.drbdadm('primary r0')
    const nbd = await pair.coprime.nbd()
    pair.relay.delay(300)
    // The kernel's stay unanswered by its client until the link is back: without a peer it goes on alone.
    const kernel = pair.kernel.writeRandom(1_048_576, 131_072)
    const coprime = Promise.all([0, 1, 2, 3].map((i) => nbd.write(i * 65_536, randomBytes(65_536))))
    await new Promise((resolve) => setTimeout(resolve, 600))
    pair.relay.cut()
    await Promise.all([kernel, coprime])
    await splitBrainIsSolved(pair)
    await pair.finish()
  })

  row('silence: both notice by pings that were not answered', async (pair) => {
    await pair.inSync({ net: IMPATIENT })
    pair.allow(LOST_LINK)
    await pair.coprime.primary()
    pair.relay.silence('coprime')
    pair.relay.silence('kernel')
    await pair.apart()
    const nbd = await pair.coprime.nbd()
    await nbd.write(8192, randomBytes(8192))
    pair.relay.reset()
    pair.relay.heal()
    await pair.finish()
  })

  row('a write that the silent peer does not acknowledge: timeout and ko-count', async (pair) => {
    await pair.inSync({ net: { ...IMPATIENT, 'ko-count': 1 } })
    pair.allow(LOST_LINK)
    await pair.kernel.drbdadm('primary r0')
    pair.relay.silence('kernel')
    await pair.kernel.writeRandom(4096, 4096)
    await pair.apart()
    pair.relay.reset()
    pair.relay.heal()
    await pair.finish()
  })

  row('coprime stops for a while (SIGSTOP), a Primary kernel goes on', async (pair) => {
    await pair.inSync({ net: IMPATIENT })
    pair.allow(LOST_LINK)
    await pair.kernel.drbdadm('primary r0')
    pair.coprime.freeze()
    await pair.kernel.writeRandom(4096, 65_536)
    await pair.kernel.until('alone', ({ connection }) => connection !== 'Connected')
    pair.coprime.thaw()
    await pair.finish()
  })

  row('the guest stops for a while, a Primary coprime goes on', async (pair) => {
    await pair.inSync({ net: IMPATIENT })
    pair.allow(LOST_LINK)
    await pair.coprime.primary()
    const nbd = await pair.coprime.nbd()
    pair.guest.freeze()
    try {
      await nbd.write(4096, randomBytes(65_536))
      await pair.coprime.until('alone', ({ connection }) => connection !== 'Connected')
    } finally {
      pair.guest.thaw()
    }
    await pair.finish()
  })
})

/** Both went on alone as Primary: coprime gives its changes up. */
async function splitBrainIsSolved(pair: KernelPair): Promise<void> {
  await pair.apart()
  await pair.coprime.secondary()
  await pair.coprime.command({ command: 'disconnect', force: true })
  pair.relay.heal()
  await pair.coprime.command({ command: 'connect', discardMyData: true })
}
