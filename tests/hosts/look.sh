#!/bin/sh
# Print what a test host is, as YAML, without any help of the collection's.
set -u

echo "packages:"
dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' | sed -n 's/^installed \(\S*\) \(.*\)$/  "\1": "\2"/p'
echo "held:"
apt-mark showhold | sed 's/.*/- "&"/'
echo "audit: $(dpkg --audit | wc -l)"
echo "loaded: '$(cat /opt/gpu/sys/module/nvidia/version 2>/dev/null)'"
answer=$(python3 -c '
import ctypes
text = ctypes.create_string_buffer(80)
nvml = ctypes.CDLL("libnvidia-ml.so.1")
nvml.nvmlInit_v2() or nvml.nvmlSystemGetDriverVersion(text, 80)
print(text.value.decode())' 2>/dev/null)
echo "answers: '$answer'"
echo "files:"
find /etc/apt /etc/modprobe.d /usr/share/keyrings -name '*gpufleet*' 2>/dev/null | sort | sed 's/.*/- "&"/'
echo "index: '$(stat -c '%n %y' /var/lib/apt/lists/*_Packages* 2>/dev/null | md5sum)'"
echo "services:"
for unit in nvidia-persistenced nvidia-fabricmanager nvidia-dcgm inference; do
    echo "  $unit: $(systemctl is-active "$unit") $(systemctl is-enabled "$unit" 2>/dev/null)"
done
if [ -e /var/lib/gpufleet/cuda_driver.json ]; then echo "record: true"; else echo "record: false"; fi
