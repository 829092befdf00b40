# Latency of a random access that waited, and throughput, by system. data, out: files (table.sh).
set terminal svg size 900,700 dynamic
set output out
set style data histograms
set style fill solid 0.7
set grid ytics
set xtics rotate by -20
set key top left
set datafile separator "\t"
set multiplot layout 2,1
set ylabel "us (random access that waited)"
set logscale y
plot data using ($2 > 0 ? $2 : NaN):xtic(1) title "p50", '' using ($3 > 0 ? $3 : NaN) title "p99"
set ylabel "MB/s (sequential)"
plot data using 4:xtic(1) notitle
unset multiplot
