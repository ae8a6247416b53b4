/* What the tests need of NVML: it answers when the kernel module that is loaded has the library's own version.
   Built with -DVERSION="…" for each version of the driver. */

#include <stdio.h>
#include <string.h>

#define LOADED "/opt/gpu/sys/module/nvidia/version"

enum { SUCCESS = 0, NOT_LOADED = 9, MISMATCH = 18, TOO_SMALL = 7 };

int nvmlInit_v2(void) {
    char loaded[80] = "";
    FILE *file = fopen(LOADED, "r");
    if (!file)
        return NOT_LOADED;
    if (!fgets(loaded, sizeof loaded, file))
        loaded[0] = '\0';
    fclose(file);
    loaded[strcspn(loaded, "\n")] = '\0';
    return strcmp(loaded, VERSION) ? MISMATCH : SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    if (length <= strlen(VERSION))
        return TOO_SMALL;
    strcpy(version, VERSION);
    return SUCCESS;
}

const char *nvmlErrorString(int status) {
    switch (status) {
    case SUCCESS: return "Success";
    case NOT_LOADED: return "Driver Not Loaded";
    case MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}
