# JSON lines of peers.sh, peers_vm.sh and apps.sh to Markdown tables: medians
# over the runs, with the least and the most of them where there are several.
# -v data=PREFIX: what is plotted also goes to PREFIX-peers.tsv, PREFIX-apps.tsv.
# Exit 1 if systems disagree on the content that a pattern leaves.

# The value of a member of the flat object in $0; "" if there is none or it is null.
function member(name,    s) {
	if (!match($0, "\"" name "\": ?"))
		return ""
	s = substr($0, RSTART + RLENGTH)
	if (s ~ /^"/) {
		s = substr(s, 2)
		return substr(s, 1, index(s, "\"") - 1)
	}
	match(s, /^[^,}]*/)
	s = substr(s, 1, RLENGTH)
	return s == "null" ? "" : s
}

# One more figure of a cell.
function note(cell, value) {
	if (value != "")
		value_of[cell, ++count_of[cell]] = value + 0
}

function sorted(cell,    i, j, v) {
	for (i = 2; i <= count_of[cell]; i++) {
		v = value_of[cell, i]
		for (j = i - 1; j > 0 && value_of[cell, j] > v; j--)
			value_of[cell, j + 1] = value_of[cell, j]
		value_of[cell, j + 1] = v
	}
}

function median(cell,    n) {
	n = count_of[cell]
	if (n == 0)
		return ""
	sorted(cell)
	return n % 2 ? value_of[cell, (n + 1) / 2] : (value_of[cell, n / 2] + value_of[cell, n / 2 + 1]) / 2
}

# Three figures of it, as many as one wants to read.
function short(v) {
	return sprintf(v >= 100 ? "%.0f" : v >= 10 ? "%.1f" : v >= 0.1 ? "%.2f" : "%.4f", v)
}

function text(cell,    m) {
	m = median(cell)
	if (m == "")
		return "-"
	if (count_of[cell] == 1)
		return short(m)
	return short(m) " (" short(value_of[cell, 1]) "-" short(value_of[cell, count_of[cell]]) ")"
}

# Whether there is anything to plot in a row: a figure after the application and the share.
function finite(line,    i, n, f) {
	n = split(line, f, "\t")
	for (i = 3; i <= n; i++)
		if (f[i] != "nan")
			return 1
	return 0
}

function list(names, n, name) {
	for (n = 1; n <= names[0]; n++)
		if (names[n] == name)
			return
	names[++names[0]] = name
}

BEGIN {
	systems[0] = app_systems[0] = apps[0] = percents[0] = hosts[0] = raws[0] = 0
}

/^\{"host"/ {
	list(hosts, 0, member("host") ", " member("cpus") " x " member("cpu") ", " member("mem_mib") " MiB, load " member("load1") ", " member("date") ", commit " member("commit"))
}
/^\{"raw"/ { list(raws, 0, member("raw")); note("raw us " member("raw"), member("us_p50")); note("raw p99 " member("raw"), member("us_p99")) }
/^\{"bench": ?"raw"/ {
	list(raws, 0, "farferry " member("fabric"))
	note("raw us farferry " member("fabric"), member("us_p50"))
	note("raw p99 farferry " member("fabric"), member("us_p99"))
	note("raw mbps farferry " member("fabric"), member("mbps"))
}
# Runs that the kernel ended (OOM) before they were done, and what they were.
/"killed": ?[0-9]/ {
	killed[++nkilled] = (member("access") != "" ? member("access") : member("app") " at " member("percent") " %") " on " member("system") ": " member("killed") (member("done") == "true" ? "" : ", never done")
	next
}
/^\{"access"/ {
	system_name = member("system")
	pattern = member("access")
	list(systems, 0, system_name)
	n = split("us_p50 us_p99 mbps seconds fill_mbps", figures, " ")
	for (i = 1; i <= n; i++)
		note(system_name SUBSEP pattern SUBSEP figures[i], member(figures[i]))
	note(system_name SUBSEP "fill", member("fill_mbps"))
	size = member("size_bytes")
	if (member("budget_bytes") > 0)
		budget = member("budget_bytes")
	checksum = member("checksum")
	if (checksum !~ /^0*$/) {
		if ((pattern SUBSEP size) in first && first[pattern, size] != checksum) {
			print "table: " pattern " on " system_name " left other content than on " first_on[pattern, size] > "/dev/stderr"
			disagree = 1
		}
		first[pattern, size] = checksum
		first_on[pattern, size] = system_name
	}
}
/^\{"app"/ {
	app = member("app")
	percent = member("percent")
	list(apps, 0, app)
	mib[app] = member("mib")
	if (member("system") == "ram") {
		note(app SUBSEP "ram", member("seconds"))
		note(app SUBSEP "ram" SUBSEP percent, member("seconds"))
	} else {
		list(app_systems, 0, member("system"))
		list(percents, 0, percent)
		note(app SUBSEP member("system") SUBSEP percent, member("seconds"))
	}
}

END {
	for (i = 1; i <= hosts[0]; i++)
		print "- " hosts[i]
	if (systems[0] > 0) {
		printf "\n%d MiB of memory", size / 1048576
		if (budget > 0)
			printf ", %d MiB of it in RAM", budget / 1048576
		print ".\n"
		print "| system | random p50 us | p99 us | MB/s | sequential p50 us | p99 us | MB/s | stencil s | sort s | first filling MB/s |"
		print "|---|---|---|---|---|---|---|---|---|---|"
		for (i = 1; i <= systems[0]; i++) {
			s = systems[i] SUBSEP
			ram = systems[i] == "ram"
			print "| " systems[i] " | " (ram ? "-" : text(s "random" SUBSEP "us_p50")) " | " (ram ? "-" : text(s "random" SUBSEP "us_p99")) \
				" | " text(s "random" SUBSEP "mbps") \
				" | " (ram ? "-" : text(s "seq" SUBSEP "us_p50")) " | " (ram ? "-" : text(s "seq" SUBSEP "us_p99")) \
				" | " text(s "seq" SUBSEP "mbps") " | " text(s "stencil" SUBSEP "seconds") " | " text(s "sort" SUBSEP "seconds") \
				" | " text(s "fill") " |"
			if (data != "") {
				printf "%s\t%s\t%s\t%s\t%s\t%s\n", systems[i], ram ? 0 : median(s "random" SUBSEP "us_p50") + 0, ram ? 0 : median(s "random" SUBSEP "us_p99") + 0, \
					median(s "seq" SUBSEP "mbps") + 0, median(s "stencil" SUBSEP "seconds") + 0, median(s "sort" SUBSEP "seconds") + 0 > (data "-peers.tsv")
			}
		}
		print ""
		print "p50 and p99: of accesses that waited. ram: all of it local. zram-N: kernel swap, vm.page-cluster N."
	}
	if (raws[0] > 0) {
		print "\n| raw transport, 4 KiB read | p50 us | p99 us | MB/s (64 KiB, 16 at a time) |"
		print "|---|---|---|---|"
		for (i = 1; i <= raws[0]; i++)
			print "| " raws[i] " | " text("raw us " raws[i]) " | " text("raw p99 " raws[i]) " | " text("raw mbps " raws[i]) " |"
	}
	if (apps[0] > 0) {
		print "\nSlowdown beside all local, which took the seconds of the second column.\n"
		printf "| application | all local s | RAM |"
		for (k = 1; k <= app_systems[0]; k++)
			printf " %s |", app_systems[k]
		printf "\n|---|---|---|"
		for (k = 1; k <= app_systems[0]; k++)
			printf "---|"
		print ""
		for (i = 1; i <= apps[0]; i++) {
			for (j = 1; j <= percents[0]; j++) {
				# The sort's own work depends on its budget, so each has an all-local run of its own.
				near = apps[i] SUBSEP "ram" SUBSEP percents[j]
				if (count_of[near] == 0)
					near = apps[i] SUBSEP "ram"
				base = median(near)
				printf "| %s, %d MiB | %s | %d %% |", apps[i], mib[apps[i]], text(near), percents[j]
				line = apps[i] "\t" percents[j]
				for (k = 1; k <= app_systems[0]; k++) {
					m = median(apps[i] SUBSEP app_systems[k] SUBSEP percents[j])
					printf " %s |", m == "" || base + 0 == 0 ? "-" : short(m / base)
					line = line "\t" (m == "" || base + 0 == 0 ? "nan" : m / base)
				}
				print ""
				if (data != "" && finite(line)) {
					if (!rows++) {
						printf "# app\tpercent" > (data "-apps.tsv")
						for (k = 1; k <= app_systems[0]; k++)
							printf "\t%s", app_systems[k] > (data "-apps.tsv")
						print "" > (data "-apps.tsv")
					}
					print line > (data "-apps.tsv")
					rows_of_app[i]++
				}
			}
			if (rows_of_app[i] > 0)
				print "\n" > (data "-apps.tsv")
		}
	}
	if (nkilled > 0)
		print "\nEnded by the kernel (OOM) before they were done, and begun again:\n"
	for (i = 1; i <= nkilled; i++)
		print "- " killed[i]
	exit disagree
}
