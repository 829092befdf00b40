# Slowdown beside all local by the share of memory in RAM, a panel for each application. data, out: files (table.sh).
set terminal svg size 1000,800 dynamic
set output out
set datafile separator "\t"
set datafile missing "nan"
set key top left
set grid
set logscale y
set xrange [105:20]
set xtics 25
set xlabel "% of the memory in RAM"
set ylabel "times as long as all local"
header = system("sed -n '1s/^# //p' '".data."'") # app percent SYSTEM...
columns = words(header)
apps = system("awk -F'\t' '!/^#/ && NF > 2 && !($1 in seen) { seen[$1] = 1; print $1 }' '".data."'")
set multiplot layout 2,3
do for [app = 1:words(apps)] {
	set title word(apps, app)
	plot for [c = 3:columns] data index app - 1 using 2:c with linespoints title word(header, c)
}
unset multiplot
