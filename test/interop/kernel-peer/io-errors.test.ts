// Goal: a disk that fails, on either side, costs no data: the other side goes on, and the failed one is resynced afterwards.
// Method: the guest's backing disk is a null_blk device in its memory with bad blocks; its contents are read in the guest.
// coprime's fails by a limit on the size of the files that the daemon may write (prlimit), or is cut short under it.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { truncateSync } from 'node:fs'
import { DEVICES, type KernelPair, MIB, readRange, rows } from './pair.ts'

const KIB = 1024
const DISK = '/dev/bad-disk'
const FAULTS = '/mnt/nullb/bad'
/** 512-byte sectors 80 to 87: block 10. */
const BAD = '80-87'
const MAKE = `[ -b ${DISK} ] && exit 0
modprobe null_blk nr_devices=0
mkdir -p /mnt; grep -q ' /mnt ' /proc/mounts || mount -t configfs none /mnt
mkdir -p ${FAULTS} && cd ${FAULTS}
echo 1 > memory_backed; echo 16 > size; echo 512 > blocksize; echo 1 > power
i=0; while [ ! -b /dev/bad ] && [ ! -b /dev/nullb0 ]; do i=$((i + 1)); [ $i -gt 100 ] && exit 1; sleep 0.1; done
[ -b /dev/bad ] && ln -sf /dev/bad ${DISK} || ln -sf /dev/nullb0 ${DISK}`
/** Where coprime's disk begins to fail. */
const SOUND_BYTES = 4 * MIB
const OWN_COMPLAINTS = /failed on the own disk|metadata write failed/
/** What a kernel says of its own disk. */
const DISK_COMPLAINTS = /[Ii]\/O error|IO ERROR|Failed|FAILED|failed|NegAck|Got NegAck|local WRITE|local READ/

rows('I/O errors', (row) => {
  row(
    'a write fails on the kernel, which detaches: coprime goes on, and resyncs it when the disk is good again',
    async (pair) => {
      await onBadDisk(pair, 'detach')
      await pair.coprime.primary()
      const nbd = await pair.coprime.nbd()
      await nbd.write(0, randomBytes(256 * KIB))
      await pair.guest.sh(`echo +${BAD} > ${FAULTS}/badblocks`)
      await nbd.write(32 * KIB, randomBytes(64 * KIB))
      await pair.coprime.until('diskless there', ({ volume }) => volume.peerDisk === 'Diskless')
      await nbd.write(MIB, randomBytes(64 * KIB))
      await pair.guest.sh(`echo -${BAD} > ${FAULTS}/badblocks`)
      await pair.kernel.drbdadm('attach r0')
      await finishWithGuestDisk(pair)
    },
  )

  row('a read fails on a Primary kernel, which detaches: it reads at coprime', async (pair) => {
    await onBadDisk(pair, 'detach')
    await pair.kernel.drbdadm('primary r0')
    const data = randomBytes(64 * KIB)
    await pair.kernel.write(32 * KIB, data)
    await pair.guest.sh(`echo +${BAD} > ${FAULTS}/badblocks`)
    assert.deepEqual(await pair.kernel.read(32 * KIB, data.length), data)
    await pair.coprime.until('diskless there', ({ volume }) => volume.peerDisk === 'Diskless')
    await pair.kernel.write(40 * KIB, randomBytes(16 * KIB))
    await pair.guest.sh(`echo -${BAD} > ${FAULTS}/badblocks`)
    await pair.kernel.drbdadm('attach r0')
    await finishWithGuestDisk(pair)
  })

  row(
    'a write fails on the kernel, which goes on (pass_on): the block is out of sync, and a reconnect repairs it',
    async (pair) => {
      await onBadDisk(pair, 'pass_on')
      await pair.coprime.primary()
      const nbd = await pair.coprime.nbd()
      await pair.guest.sh(`echo +${BAD} > ${FAULTS}/badblocks`)
      await nbd.write(32 * KIB, randomBytes(32 * KIB))
      await pair.coprime.until('told', ({ volume }) => volume.peerDisk === 'Inconsistent' && volume.outOfSyncBlocks > 0)
      await pair.guest.sh(`echo -${BAD} > ${FAULTS}/badblocks`)
      await pair.kernel.drbdadm('disconnect r0')
      await pair.kernel.drbdadm('connect r0')
      await finishWithGuestDisk(pair)
    },
  )
})

rows("I/O errors of coprime's disk", (row) => {
  row(
    'a write fails on a Secondary coprime, which detaches: the kernel goes on, and resyncs it afterwards',
    async (pair) => {
      await pair.inSync()
      pair.allow(OWN_COMPLAINTS, DISK_COMPLAINTS)
      await pair.kernel.drbdadm('primary r0')
      await pair.kernel.writeRandom(MIB, 64 * KIB)
      pair.coprime.limitFileSize(SOUND_BYTES)
      await pair.kernel.writeRandom(SOUND_BYTES + 64 * KIB, 64 * KIB)
      await pair.kernel.until('diskless there', ({ peerDisk }) => peerDisk === 'Diskless')
      await pair.kernel.writeRandom(2 * MIB, 64 * KIB)
      pair.coprime.limitFileSize(undefined)
      await pair.coprime.command({ command: 'attach' })
      await pair.finish()
    },
  )

  row(
    'a write fails on a Primary coprime, which detaches: its client does not notice, reads and writes go on at the kernel',
    async (pair) => {
      await pair.inSync()
      pair.allow(OWN_COMPLAINTS, DISK_COMPLAINTS)
      await pair.coprime.primary()
      const nbd = await pair.coprime.nbd()
      pair.coprime.limitFileSize(SOUND_BYTES)
      const data = randomBytes(64 * KIB)
      await nbd.write(SOUND_BYTES + 32 * KIB, data)
      await pair.kernel.until('diskless there', ({ peerDisk }) => peerDisk === 'Diskless')
      assert.deepEqual(Buffer.from(await nbd.read(SOUND_BYTES + 32 * KIB, data.length)), data)
      await nbd.write(0, randomBytes(64 * KIB))
      await nbd.flush()
      pair.coprime.limitFileSize(undefined)
      await pair.coprime.command({ command: 'attach' })
      await pair.finish()
    },
  )

  row(
    'a read fails on a Primary coprime, which detaches and reads at the kernel; a new disk is resynced in full',
    async (pair) => {
      await pair.inSync()
      pair.allow(OWN_COMPLAINTS, DISK_COMPLAINTS)
      await pair.coprime.primary()
      const nbd = await pair.coprime.nbd()
      const data = randomBytes(64 * KIB)
      await nbd.write(8 * MIB, data)
      await nbd.flush()
      truncateSync(pair.coprimeImage, SOUND_BYTES)
      assert.deepEqual(Buffer.from(await nbd.read(8 * MIB, data.length)), data)
      await pair.kernel.until('diskless there', ({ peerDisk }) => peerDisk === 'Diskless')
      truncateSync(pair.coprimeImage, DEVICES.main.sizeBytes)
      await pair.coprime.run('create-md', '--force', 'r0')
      await pair.coprime.command({ command: 'attach' })
      await pair.clean()
      assert.equal(pair.coprime.logged(/resync as target begins: 4086 blocks/), 1)
      await pair.finish()
    },
  )
})

async function onBadDisk(pair: KernelPair, onIoError: string): Promise<void> {
  // `begin` takes down what has the disk open.
  await pair.begin()
  await pair.guest.sh(MAKE)
  await pair.guest.sh(`gdd if=/dev/zero of=${DISK} bs=64k oflag=direct 2>/dev/null; true`)
  await pair.begin({ kernelDisk: DISK, kernel: { disk: { 'on-io-error': onIoError } } })
  pair.allow(DISK_COMPLAINTS)
  await pair.create()
  await pair.up()
  await pair.connected()
  await pair.kernel.drbdadm('new-current-uuid --clear-bitmap r0/0')
  await pair.clean()
}

async function finishWithGuestDisk(pair: KernelPair): Promise<void> {
  await pair.clean()
  const lengthBytes = (await pair.kernel.sizeSectors()) * 512
  if ((await pair.coprime.state()).role === 'Primary') await pair.coprime.secondary()
  if ((await pair.kernel.state()).role === 'Primary') await pair.kernel.drbdadm('secondary r0')
  await pair.clean()
  await pair.kernel.drbdadm('down r0')
  await pair.coprime.command({ command: 'down' })
  await pair.coprime.stop()
  const { code, bytes } = await pair.guest.run(
    `gdd if=${DISK} bs=${lengthBytes} count=1 iflag=direct,fullblock status=none`,
  )
  assert.equal(code, 0)
  assert.ok(readRange(pair.coprimeImage, 0, lengthBytes).equals(bytes), 'both disks hold the same')
  await pair.checkLogs()
}
