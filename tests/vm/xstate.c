/* Lets a User-Mode Linux of 2022 run on a CPU with AMX: preloaded into it, beneath its ptrace calls.

   It keeps room for the register state that it knows. The host hands out a part of the state, but takes back the
   whole only (EFAULT else), so what the kernel sets is laid over what the process has. Registers that the kernel
   does not know (AMX tiles) thus stay with the process. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...)
{
    static long (*next)(enum __ptrace_request, ...);
    static char state[64 * 1024]; /* static, for the kernel's stacks are small; it runs on one CPU */

    va_list arguments;
    va_start(arguments, request);
    int pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (!next)
        next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
    if (request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
        return next(request, pid, address, data);

    struct iovec *known = data, whole = {state, sizeof state};
    if (next(PTRACE_GETREGSET, pid, address, &whole) < 0)
        return -1;
    memcpy(state, known->iov_base, known->iov_len);
    return next(request, pid, address, &whole);
}
