// An address of the loopback interface for this process alone: 127.0.0.0/8 is all local on Linux. Tests that run side by side in
// processes of their own cannot take each other's ports on it.

/** 127.64.0.0 to 127.127.255.255 by the process's id, which is below 2^22 on Linux. */
export const OWN_LOOPBACK = `127.${64 + ((process.pid >> 16) & 63)}.${(process.pid >> 8) & 255}.${process.pid & 255}`
