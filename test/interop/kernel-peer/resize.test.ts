// Goal: the device grows while both are connected, asked for on either side, and the new space is in sync afterwards.
// Method: both disks are larger than the device, which the option `size` of the kernel's or of both configurations keeps small.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { MIB, rows } from './pair.ts'

const SMALL_SECTORS = (8 * MIB) / 512
const GROWN_SECTORS = 32_688

rows('online resize', (row) => {
  for (const starter of ['coprime', 'kernel'] as const) {
    for (const clean of [false, true]) {
      row(`${starter} grows the device${clean ? ', --assume-clean' : ''}`, async (pair) => {
        await pair.inSync({ disk: { size: '8M' } })
        assert.equal((await pair.coprime.state()).volume.sizeSectors, SMALL_SECTORS)
        if (starter === 'coprime') {
          await pair.coprime.primary()
          await pair.coprime.command({ command: 'resize', assumeClean: clean })
        } else {
          await pair.kernel.drbdadm('primary r0')
          await pair.guest.sh("sed -i '/size 8M/d' /etc/drbd.conf")
          await pair.kernel.drbdadm(`-- --size=0 ${clean ? '--assume-clean ' : ''}resize r0`)
        }
        await pair.coprime.until('grown', ({ volume }) => volume.sizeSectors === GROWN_SECTORS)
        await pair.clean()
        assert.equal(await pair.kernel.sizeSectors(), GROWN_SECTORS)
        if (starter === 'coprime') {
          const nbd = await pair.coprime.nbd()
          assert.equal(nbd.sizeBytes, GROWN_SECTORS * 512)
          await nbd.write(12 * MIB, randomBytes(65_536))
        } else await pair.kernel.writeRandom(12 * MIB, 65_536, 65_536)
        await pair.finish()
      })
    }
  }
})
