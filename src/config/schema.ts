// Every option that may stand in a configuration file: name, type, unit, range, default and meaning, whether it acts in
// this program, and who else knows it. Parser, types, dump and docs/configuration.md all come from these tables. Facts:
// config-and-tools.md 1.7 and 1.9, ranges of DRBD 9's options as `drbdsetup xml-help` prints them.
//
// The key of an entry is the property's name in TypeScript: the option's name in camel case, then its unit.

import { GIB, KIB, MIB, SECTOR_BYTES } from '../base/units.ts'
import {
  boolean,
  choice,
  flag,
  ignored,
  names,
  nine,
  number,
  numberOrWord,
  type OptionTable,
  only,
  type TextSpec,
  text,
} from './option-spec.ts'

const TEXT_LENGTH_MAX = 255
const ALGORITHM_LENGTH_MAX = 63
const NO_LIMIT = Number.MAX_SAFE_INTEGER

const NO_COUNTER = 'this program reports to nobody'
const NO_MODULE = 'there is no kernel module'
const NO_UDEV = 'there is no kernel device, hence no udev'
const NO_DIALOGUE = 'there is no wait dialogue at boot'
const NO_SOCKET_OPTION = 'Node.js leaves it to the operating system'
const NO_QUORUM = 'with two hosts the fencing policy decides'
const NO_TRANSPORT = 'hosts talk over plain TCP'
const NO_QUEUE_HINT = 'there is no block queue of the kernel below'
const ALWAYS_FLUSH = 'write order is always kept by flushing'
/** DRBD sits below the page cache: there a battery-backed disk cache makes flushes needless. Here it does not. */
const PAGE_CACHE = 'writes stand in the page cache, which no battery keeps: flushes are always made'
const LOCAL_READS = 'reads are always served by the local disk'

// ---- global ---------------------------------------------------------------------------------------------------------

export const GLOBAL = {
  usageCount: ignored(NO_COUNTER, {
    ...choice('usage-count', ['yes', 'no', 'ask'], 'ask', 'take part in the online usage counter'),
    bareOnly: true,
  }),
  minorCount: ignored(NO_MODULE, number('minor-count', '', [1, 255, 32], 'sizing hint for the kernel module')),
  dialogRefreshSeconds: ignored(
    NO_DIALOGUE,
    number('dialog-refresh', 's', [0, 600, 1], 'redraw interval of the wait dialogue at boot, 0 never'),
  ),
  disableIpVerification: flag('disable-ip-verification', 'skip the check that the local address is on an interface'),
  udevAlwaysUseVnr: ignored(NO_UDEV, flag('udev-always-use-vnr', 'always put /VNR into udev link names')),
  cmdTimeoutShortSeconds: ignored(
    'commands are answered by the daemon at once',
    number('cmd-timeout-short', 's', [0, 900, 5], 'limit for quick calls of the tools'),
  ),
  cmdTimeoutMediumSeconds: ignored(
    'commands wait until the state change is decided',
    number('cmd-timeout-medium', 's', [0, 900, 121], 'limit for state changes'),
  ),
  cmdTimeoutLongSeconds: ignored(
    'commands wait until the work is done',
    number('cmd-timeout-long', 's', [0, 900, 600], 'limit for handlers and long calls'),
  ),
} as const satisfies OptionTable

// ---- startup --------------------------------------------------------------------------------------------------------

const NO_BOOT_WAIT = 'the daemon never makes the boot wait'

export const STARTUP = {
  wfcTimeoutSeconds: ignored(
    NO_BOOT_WAIT,
    number('wfc-timeout', 's', [0, 300_000, 0], 'wait for the peer at start-up, 0 for ever'),
  ),
  degrWfcTimeoutSeconds: ignored(
    NO_BOOT_WAIT,
    number('degr-wfc-timeout', 's', [0, 300_000, 0], 'the same after a reboot of a degraded cluster'),
  ),
  outdatedWfcTimeoutSeconds: ignored(
    NO_BOOT_WAIT,
    number('outdated-wfc-timeout', 's', [0, 300_000, 0], 'the same when the peer was Outdated'),
  ),
  waitAfterSb: ignored(NO_BOOT_WAIT, boolean('wait-after-sb', false, 'keep waiting if split brain left it StandAlone')),
  becomePrimaryOn: ignored(
    'promote with the primary command',
    names('become-primary-on', 'hosts, or `both`, on which the init script promotes'),
  ),
  stackedTimeouts: ignored(
    'resources are not stacked',
    flag('stacked-timeouts', 'use the timeouts of the upper resource'),
  ),
} as const satisfies OptionTable

// ---- options (resource) ---------------------------------------------------------------------------------------------

export const OPTIONS = {
  cpuMask: ignored(
    'the process runs where the system puts it',
    text('cpu-mask', 255, 'CPUs of the resource, hex mask'),
  ),
  onNoDataAccessible: choice(
    'on-no-data-accessible',
    ['io-error', 'suspend-io'],
    'io-error',
    'what happens to I/O when neither local nor peer data can be reached',
  ),
  autoPromote: nine('promote with the primary command', boolean('auto-promote', true, 'opening read-write promotes')),
  autoPromoteTimeoutDeciseconds: nine(
    'promote with the primary command',
    number('auto-promote-timeout', '0.1 s', [0, 600, 20], 'how long an open waits for promotion'),
  ),
  quorum: nine(
    NO_QUORUM,
    numberOrWord('quorum', ['off', 'majority', 'all'], [1, 32, 'off'], 'replicas that must be reachable'),
  ),
  quorumMinimumRedundancy: nine(
    NO_QUORUM,
    numberOrWord('quorum-minimum-redundancy', ['off', 'majority', 'all'], [1, 32, 'off'], 'UpToDate ones among them'),
  ),
  onNoQuorum: nine(
    NO_QUORUM,
    choice('on-no-quorum', ['io-error', 'suspend-io'], 'suspend-io', 'reaction to lost quorum'),
  ),
  onSuspendedPrimaryOutdated: nine(
    NO_QUORUM,
    choice(
      'on-suspended-primary-outdated',
      ['disconnect', 'force-secondary'],
      'disconnect',
      'what a frozen Primary does that finds newer data',
    ),
  ),
  peerAckWindowSectors: nine(
    'peer acks exist with three nodes only',
    number('peer-ack-window', 'sectors', [2048, 204_800, 4096], 'data between two peer acks'),
  ),
  peerAckDelayMilliseconds: nine(
    'peer acks exist with three nodes only',
    number('peer-ack-delay', 'ms', [1, 10_000, 100], 'idle time before a peer ack'),
  ),
  twopcTimeoutDeciseconds: nine(
    'state changes need no two-phase commit',
    number('twopc-timeout', '0.1 s', [50, 600, 300], 'limit of a cluster-wide state change'),
  ),
  twopcRetryTimeoutDeciseconds: nine(
    'state changes need no two-phase commit',
    number('twopc-retry-timeout', '0.1 s', [1, 50, 1], 'pause before a state change is tried again'),
  ),
  maxIoDepth: nine(
    'in-flight-max bounds what is in flight',
    number('max-io-depth', '', [4, 4_294_967_295, 8000], 'requests in flight at most'),
  ),
  drbd8CompatMode: nine('DRBD 8.4 is what is spoken', boolean('drbd8-compat-mode', false, 'behave as DRBD 8.4')),
} as const satisfies OptionTable

// ---- net ------------------------------------------------------------------------------------------------------------

export const NET = {
  protocol: choice(
    'protocol',
    ['A', 'B', 'C'],
    'C',
    'a write is done: A when sent, B when the peer has received it, C when the peer has written it',
  ),
  timeoutDeciseconds: number('timeout', '0.1 s', [1, 600, 60], 'the peer must answer within this time'),
  pingIntSeconds: number('ping-int', 's', [1, 120, 10], 'idle time before a keep-alive'),
  pingTimeoutDeciseconds: number('ping-timeout', '0.1 s', [1, 300, 5], 'wait for the answer to a keep-alive'),
  connectIntSeconds: number('connect-int', 's', [1, 120, 10], 'pause between attempts to connect'),
  koCount: number('ko-count', '', [0, 200, 7], 'give a peer up after ko-count x timeout without progress, 0 never'),
  maxBuffersPages: ignored(
    'in-flight-max bounds what is in flight',
    number('max-buffers', 'pages', [32, 131_072, 2048], 'receive buffers of 4 KiB'),
  ),
  maxEpochSize: number('max-epoch-size', '', [1, 20_000, 2048], 'most writes between two write barriers'),
  unplugWatermark: only(
    'drbd-8.4',
    ignored(NO_QUEUE_HINT, number('unplug-watermark', '', [1, 131_072, 128], 'requests before the queue is kicked')),
  ),
  sndbufSizeBytes: ignored(NO_SOCKET_OPTION, number('sndbuf-size', 'bytes', [0, 128 * MIB, 0], 'send buffer, 0 auto')),
  rcvbufSizeBytes: ignored(
    NO_SOCKET_OPTION,
    number('rcvbuf-size', 'bytes', [0, 128 * MIB, 0], 'receive buffer, 0 auto'),
  ),
  tcpCork: ignored('packets of one turn always leave together', boolean('tcp-cork', true, 'batch small packets')),
  socketCheckTimeoutDeciseconds: number(
    'socket-check-timeout',
    '0.1 s',
    [0, 300, 0],
    'time allowed to check the sockets of a new connection, 0 as ping-timeout',
  ),
  cramHmacAlg: text('cram-hmac-alg', ALGORITHM_LENGTH_MAX, 'hash for mutual authentication of the hosts, "" none'),
  sharedSecret: { ...text('shared-secret', 63, 'secret for cram-hmac-alg'), secret: true },
  allowTwoPrimaries: boolean('allow-two-primaries', false, 'both hosts may be Primary; needs protocol C'),
  afterSb0pri: {
    ...choice(
      'after-sb-0pri',
      [
        'disconnect',
        'discard-younger-primary',
        'discard-older-primary',
        'discard-zero-changes',
        'discard-least-changes',
        'discard-local',
        'discard-remote',
      ],
      'disconnect',
      'split brain found while nobody is Primary; discard-node-NAME is accepted as well',
    ),
    prefix: 'discard-node-',
  },
  afterSb1pri: choice(
    'after-sb-1pri',
    ['disconnect', 'consensus', 'discard-secondary', 'call-pri-lost-after-sb', 'violently-as0p'],
    'disconnect',
    'split brain found while one host is Primary',
  ),
  afterSb2pri: choice(
    'after-sb-2pri',
    ['disconnect', 'call-pri-lost-after-sb', 'violently-as0p'],
    'disconnect',
    'split brain found while both hosts are Primary',
  ),
  alwaysAsbp: boolean('always-asbp', false, 'apply the after-sb rules even to data without a known common ancestor'),
  rrConflict: choice(
    'rr-conflict',
    ['disconnect', 'call-pri-lost', 'violently', 'retry-connect', 'auto-discard'],
    'disconnect',
    'the direction of resync contradicts the roles',
  ),
  dataIntegrityAlg: text('data-integrity-alg', ALGORITHM_LENGTH_MAX, 'checksum on every data packet, "" none'),
  verifyAlg: text('verify-alg', ALGORITHM_LENGTH_MAX, 'hash for verify; without it verify is refused'),
  csumsAlg: text('csums-alg', ALGORITHM_LENGTH_MAX, 'resync sends hashes first, data only where they differ'),
  csumsAfterCrashOnly: ignored(
    'csums-alg applies to every resync',
    boolean('csums-after-crash-only', false, 'restrict csums-alg to the resync after a crash of a Primary'),
  ),
  useRle: boolean('use-rle', true, 'run-length coding when bitmaps are exchanged'),
  onCongestion: choice(
    'on-congestion',
    ['block', 'pull-ahead', 'disconnect'],
    'block',
    'with protocol A and too much in flight: writes wait; go on without the peer (Ahead) and resync it; disconnect',
  ),
  congestionFillSectors: number(
    'congestion-fill',
    'sectors',
    [0, (10 * GIB) / SECTOR_BYTES, 0],
    'data sent and not acknowledged that count as congestion, 0 do not',
  ),
  congestionExtents: number(
    'congestion-extents',
    '',
    [67, 65_534, 1237],
    'extents of the activity log with such data that count as congestion',
  ),
  fencing: only(
    'drbd-9',
    choice(
      'fencing',
      ['dont-care', 'resource-only', 'resource-and-stonith'],
      'dont-care',
      'on losing the peer while Primary: nothing; call fence-peer; freeze I/O and call fence-peer',
    ),
  ),
  transport: nine(NO_TRANSPORT, text('transport', TEXT_LENGTH_MAX, 'transport module')),
  loadBalancePaths: nine(NO_TRANSPORT, boolean('load-balance-paths', false, 'use several paths at once')),
  allowRemoteRead: nine(LOCAL_READS, boolean('allow-remote-read', true, 'reads may be served by the peer')),
  tls: nine(NO_TRANSPORT, boolean('tls', false, 'encrypt the connection')),
  tlsKeyring: nine(NO_TRANSPORT, text('tls-keyring', TEXT_LENGTH_MAX, 'key ring with the certificates')),
  tlsPrivkey: nine(NO_TRANSPORT, text('tls-privkey', TEXT_LENGTH_MAX, 'private key')),
  tlsCertificate: nine(NO_TRANSPORT, text('tls-certificate', TEXT_LENGTH_MAX, 'certificate')),
  rdmaCtrlRcvbufSizeBytes: nine(
    NO_TRANSPORT,
    number('rdma-ctrl-rcvbuf-size', 'bytes', [0, NO_LIMIT, 0], 'RDMA buffer'),
  ),
  rdmaCtrlSndbufSizeBytes: nine(
    NO_TRANSPORT,
    number('rdma-ctrl-sndbuf-size', 'bytes', [0, NO_LIMIT, 0], 'RDMA buffer'),
  ),
} as const satisfies OptionTable

// ---- disk -----------------------------------------------------------------------------------------------------------

export const DISK = {
  onIoError: choice(
    'on-io-error',
    ['pass_on', 'call-local-io-error', 'detach'],
    'detach',
    'error of the local disk: report it and go Inconsistent; run the handler; drop the disk and serve from the peer',
  ),
  fencing: only(
    'drbd-8.4',
    choice(
      'fencing',
      ['dont-care', 'resource-only', 'resource-and-stonith'],
      'dont-care',
      'as fencing in net; the strictest one of all volumes counts',
    ),
  ),
  diskBarrier: ignored(ALWAYS_FLUSH, boolean('disk-barrier', false, 'keep write order by barriers')),
  diskFlushes: ignored(PAGE_CACHE, boolean('disk-flushes', true, 'keep write order by flushes')),
  diskDrain: ignored(ALWAYS_FLUSH, boolean('disk-drain', true, 'keep write order by waiting')),
  mdFlushes: ignored(PAGE_CACHE, boolean('md-flushes', true, 'flush after writes of metadata')),
  alExtents: {
    ...number(
      'al-extents',
      '',
      [67, 65_534, 1237],
      'slots of the activity log, 4 MiB each; brought into range silently',
    ),
    clamped: true,
  },
  alUpdates: ignored(
    'the activity log is always kept: the resync after a crash relies on it',
    boolean('al-updates', true, 'no: no log, full resync after a crash of a Primary'),
  ),
  resyncRateKibPerSecond: number(
    'resync-rate',
    'KiB/s',
    [1, 8 * 1024 * 1024, 250],
    'rate of resync if c-plan-ahead is 0, else the rate it starts with',
  ),
  resyncAfter: ignored(
    'volumes are resynchronized side by side',
    text('resync-after', 255, 'RESOURCE or RESOURCE/VNR that must have finished its resync before'),
  ),
  cPlanAheadDeciseconds: number(
    'c-plan-ahead',
    '0.1 s',
    [0, 300, 20],
    'time in which the rate of resync is corrected; 0 selects the fixed resync-rate',
  ),
  cDelayTargetDeciseconds: number(
    'c-delay-target',
    '0.1 s',
    [1, 100, 10],
    'aimed delay of resync requests if c-fill-target is 0',
  ),
  cFillTargetSectors: number(
    'c-fill-target',
    'sectors',
    [0, 1_048_576, 100],
    'aimed amount of resync data that waits on its way, and all that is in flight beside clients at work',
  ),
  cMaxRateKibPerSecond: number('c-max-rate', 'KiB/s', [0, 4 * 1024 * 1024, 102_400], 'ceiling of resync, 0 none'),
  cMinRateKibPerSecond: number(
    'c-min-rate',
    'KiB/s',
    [0, 4 * 1024 * 1024, 250],
    'rate to which application I/O may push resync, 0 no throttling',
  ),
  diskTimeoutDeciseconds: ignored(
    'a request waits for the disk as long as the system does',
    number('disk-timeout', '0.1 s', [0, 6000, 0], 'a local request older than this fails the disk, 0 off'),
  ),
  readBalancing: ignored(
    LOCAL_READS,
    choice(
      'read-balancing',
      [
        'prefer-local',
        'prefer-remote',
        'round-robin',
        'least-pending',
        'when-congested-remote',
        '32K-striping',
        '64K-striping',
        '128K-striping',
        '256K-striping',
        '512K-striping',
        '1M-striping',
      ],
      'prefer-local',
      'who answers reads',
    ),
  ),
  sizeSectors: number('size', 'sectors', [0, 2 ** 41, 0], 'cap on the size of the device, 0 as large as possible'),
  rsDiscardGranularityBytes: ignored(
    'holes of the source become holes of the target whatever their size',
    number('rs-discard-granularity', 'bytes', [0, MIB, 0], 'resync sends runs of zeroes of this size as discards'),
  ),
  discardZeroesIfAligned: ignored(
    'discarded ranges always read back as zeroes',
    boolean('discard-zeroes-if-aligned', true, 'treat aligned discards as reading back zeroes'),
  ),
  disableWriteSame: ignored('NBD has no write-same', boolean('disable-write-same', false, 'do not offer write-same')),
  maxBioBvecs: only(
    'drbd-8.4',
    ignored(NO_QUEUE_HINT, number('max-bio-bvecs', '', [0, 128, 0], 'limit of segments of one request')),
  ),
  bitmap: nine('there always is a bitmap', boolean('bitmap', true, 'keep a bitmap for this peer')),
  blockSizeBytes: nine('sectors are 512 bytes', number('block-size', 'bytes', [512, 4096, 512], 'logical block size')),
  discardGranularityBytes: nine(
    'the NBD server announces its own',
    number('discard-granularity', 'bytes', [0, NO_LIMIT, 0], 'granularity of discards that is announced'),
  ),
  maxBioSizeBytes: nine(NO_QUEUE_HINT, number('max-bio-size', 'bytes', [512, MIB, MIB], 'largest request')),
  diskless: nine('every host has a disk', boolean('diskless', false, 'a volume without a disk')),
  resyncWithoutReplication: nine('replication goes on', boolean('resync-without-replication', false, 'resync only')),
  peerTiebreaker: nine(NO_QUORUM, boolean('peer-tiebreaker', true, 'the peer counts as a tiebreaker')),
} as const satisfies OptionTable

// ---- handlers -------------------------------------------------------------------------------------------------------

const handler = (name: string, meaning: string): TextSpec => text(name, 255, meaning)

export const HANDLERS = {
  priOnInconDegr: handler('pri-on-incon-degr', 'Primary, degraded, and the local data are Inconsistent'),
  priLostAfterSb: handler('pri-lost-after-sb', 'this Primary is the victim of a split brain; should not return'),
  priLost: handler('pri-lost', 'Primary while the other side has the good data; should not return'),
  initialSplitBrain: handler('initial-split-brain', 'split brain noticed, before the policies'),
  splitBrain: handler('split-brain', 'split brain stays unresolved and the connection is dropped'),
  fencePeer: handler('fence-peer', 'connection lost while Primary, or promotion without knowledge of the peer'),
  unfencePeer: handler('unfence-peer', 'this host was the source of a resync and all volumes are UpToDate again'),
  localIoError: handler('local-io-error', 'with on-io-error call-local-io-error'),
  beforeResyncTarget: handler('before-resync-target', 'on the target before resync; not 0: connection is dropped'),
  afterResyncTarget: handler('after-resync-target', 'on the target after resync'),
  beforeResyncSource: handler('before-resync-source', 'on the source before resync; not 0: dropped, 3 is ignored'),
  outOfSync: handler('out-of-sync', 'verify ended and found differences'),
  quorumLost: nine(NO_QUORUM, handler('quorum-lost', 'quorum was lost')),
  disconnected: nine('use split-brain and fence-peer', handler('disconnected', 'the connection was lost')),
} as const satisfies OptionTable

// ---- proxy ----------------------------------------------------------------------------------------------------------

const NO_PROXY = 'DRBD proxy is a separate product'
const proxyText = (name: string, meaning: string): TextSpec => ignored(NO_PROXY, text(name, 255, meaning))

export const PROXY = {
  memlimit: proxyText('memlimit', 'memory of the proxy'),
  readLoops: proxyText('read-loops', 'reads of one turn'),
  compression: proxyText('compression', 'compress'),
  bwlimit: proxyText('bwlimit', 'bandwidth limit'),
  sndbufSize: proxyText('sndbuf-size', 'send buffer'),
  rcvbufSize: proxyText('rcvbuf-size', 'receive buffer'),
  pingTimeout: proxyText('ping-timeout', 'keep-alive'),
} as const satisfies OptionTable

// ---- our own --------------------------------------------------------------------------------------------------------

export const COPRIME = {
  globalWriteOrder: only(
    'coprime',
    choice(
      'global-write-order',
      ['arbitration', 'coordinator', 'lock-extents', 'auto'],
      'arbitration',
      'how writes of two Primaries are ordered; a kernel DRBD peer knows arbitration only',
    ),
  ),
  writeNowAcks: only(
    'coprime',
    boolean('write-now-acks', false, 'coordinator: P_WRITE_NOW is sent when its own write is done, and is its ack'),
  ),
  dlExtentSizeBytes: only('coprime', {
    ...number('dl-extent-size', 'bytes', [64 * KIB, GIB, 4 * MIB], 'lock-extents: size of an extent, a power of two'),
    powerOfTwo: true,
  }),
  dlExtents: only('coprime', number('dl-extents', '', [16, 65_534, 1237], 'lock-extents: locks that are kept')),
  coordinator: only(
    'coprime',
    text('coordinator', 255, 'host that coordinates; "" the one that wins conflicts (the resolve-conflicts flag)'),
  ),
  checkPeerAddress: only(
    'coprime',
    boolean(
      'check-peer-address',
      true,
      "only connections from the peer's address are taken, as DRBD 9 does; no: from any address, as DRBD 8.4 does, for a peer behind NAT or with several addresses",
    ),
  ),
  inFlightMaxBytes: only(
    'coprime',
    number('in-flight-max', 'bytes', [MIB, 4 * GIB, 64 * MIB], 'writes of the resource in flight; more wait'),
  ),
} as const satisfies OptionTable

/** `nbd { }`, beside several `listen unix PATH;` and `listen tcp ADDRESS:PORT;`. */
export const NBD = {
  exportName: only(
    'coprime',
    text('export-name', 255, 'name of the export, followed by /VNR if there are several volumes'),
  ),
  maxConnections: only('coprime', number('max-connections', '', [1, 4096, 64], 'clients connected at most')),
} as const satisfies OptionTable

// ---- spellings of the past ------------------------------------------------------------------------------------------

export const DISK_ALIASES: ReadonlyMap<string, string> = new Map([
  ['rate', 'resync-rate'],
  ['after', 'resync-after'],
])
export const HANDLER_ALIASES: ReadonlyMap<string, string> = new Map([['outdate-peer', 'fence-peer']])

const GONE = 'no release of the last decade knows it'
/** Accepted by 8.4 in net, disk, options and startup (`use-bmbv`: in disk), and without any effect. */
export const OBSOLETE = {
  delayProbeVolume: only('drbd-8.4', ignored(GONE, text('delay-probe-volume', 255, 'obsolete'))),
  delayProbeInterval: only('drbd-8.4', ignored(GONE, text('delay-probe-interval', 255, 'obsolete'))),
  throttleThreshold: only('drbd-8.4', ignored(GONE, text('throttle-threshold', 255, 'obsolete'))),
  holdOffThreshold: only('drbd-8.4', ignored(GONE, text('hold-off-threshold', 255, 'obsolete'))),
} as const satisfies OptionTable
export const OBSOLETE_DISK = {
  useBmbv: only('drbd-8.4', ignored(GONE, boolean('use-bmbv', false, 'obsolete'))),
} as const satisfies OptionTable

/** Options of a resync, which DRBD 9 also takes in the `disk { }` of a connection. */
export const PEER_DEVICE_OPTIONS: ReadonlySet<string> = new Set([
  'resync-rate',
  'c-plan-ahead',
  'c-delay-target',
  'c-fill-target',
  'c-max-rate',
  'c-min-rate',
  'bitmap',
  'resync-without-replication',
  'peer-tiebreaker',
])
