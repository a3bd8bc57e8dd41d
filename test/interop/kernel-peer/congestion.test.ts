// Goal: a kernel that is congested goes on without us (Ahead), tells us what we miss, and resyncs it afterwards; while it does,
// coprime is Behind and its data are not taken for good.

import { rows } from './pair.ts'

const MIB = 1024 * 1024

rows('congestion', (row) => {
  row('the kernel is Ahead, coprime is Behind', async (pair) => {
    const net = { protocol: 'A', 'on-congestion': 'pull-ahead', 'congestion-fill': '64k', 'sndbuf-size': '64k' }
    await pair.inSync({ net })
    await pair.kernel.drbdadm('primary r0')
    pair.relay.delay(700)
    await pair.kernel.writeRandom(0, MIB, 16_384)
    await pair.coprime.until('Behind', ({ volume }) => volume.connection === 'Behind')
    await pair.kernel.writeRandom(4 * MIB, 65_536)
    pair.relay.delay(0)
    await pair.finish()
  })
})
