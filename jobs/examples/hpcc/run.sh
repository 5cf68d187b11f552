#!/bin/sh
# The HPC Challenge writes into a file only. Rank 0's output shows that file as it grows, so that `stillpoint logs -f`
# tells which test is under way.
if [ "${OMPI_COMM_WORLD_RANK:-0}" = 0 ]; then
  : > hpccoutf.txt
  tail -n +1 -f --pid=$$ hpccoutf.txt &
fi
exec /usr/bin/hpcc
