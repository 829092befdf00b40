#!/bin/bash
# The contract suite's verbs row, over a real rxe link.
# usage: contract.sh CONTRACT_PROGRAM [ROW]
set -eu
. "$(dirname "$0")/guestlib.sh"
export FERRY_CONTRACT_HOST=$FERRY_RDMA_ADDR
say "contract ${2:-verbs} on $FERRY_CONTRACT_HOST, kernel $(uname -r)"
exec timeout -k 10 600 "$1" "${2:-verbs}"
