#!/bin/sh
# Trains the bundled four-class ResNet-18. Usage: cxr4-resnet18.sh LABELS.csv OUTPUT.safetensors
# About an hour on one core with native bf16. A training that was stopped goes on with --resume
# as a third argument.
set -eu
labels=$1
output=$2
shift 2

exec cxrbatch train "$labels" --drop-leaks -o "$output" \
    --classes "Normal,COVID-19,Viral Pneumonia,Lung Opacity" \
    --size 160 --epochs 18 --draws 10400 --learning-rate 0.001 --batch-size 32 --precision bf16 \
    --name cxr4-resnet18 \
    --limit "Trained on the COVID-19 Radiography Database and Kermany 2018, 224 px JPEG, squeezed to a square; Lung Opacity is Kermany's bacterial pneumonia." \
    --limit "COVID-19 comes from one collection, both pneumonias from children's films of another, only Normal from both: a score can tell the collections apart instead of the diseases (DeGrave 2021)." \
    --limit "One collection names no patients; its near-duplicates were kept on one side of the split by their pixels alone." \
    "$@"
