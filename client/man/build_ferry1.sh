#!/bin/sh
# build_ferry1.sh FERRY VERSION < ferry.1.in > ferry.1: fills in the version and each command's options.
set -eu
here=$(dirname "$0")
while IFS= read -r line; do
	case $line in
	'@OPTIONS '*'@')
		command=${line#@OPTIONS }
		help=$("$1" "${command%@}" --help)
		printf '%s\n' "$help" | awk -f "$here/help_to_man.awk"
		;;
	*@VERSION@*) printf '%s\n' "${line%%@VERSION@*}$2${line#*@VERSION@}" ;;
	*) printf '%s\n' "$line" ;;
	esac
done
