#!/bin/sh
# Make the run `starter` again: sh make.sh FER2013.csv FER2013NEW.csv WORK [--folds] [options of `finetune`, as --epochs 1]
#
# FER2013.csv: of the challenge (or icml_face_data.csv); FER2013NEW.csv: the votes of FER+; WORK: a new folder.
# The run is WORK/starter, its card WORK/card/README.md. With --folds, three encoders are trained first, each without a
# third of the faces; WORK/folds-compound and WORK/folds-basic are then runs with the figures of the card.
# One thread, so that the same weights come out again, bit for bit, on the same processor and version of torch.
set -eu
fer=$1 votes=$2 work=$3
shift 3
folds=
if [ "${1-}" = --folds ]; then folds=3; shift; fi
twofold=${TWOFOLD:-twofold}
export OMP_NUM_THREADS=1

train() {  # MANIFEST OUT [options]
    manifest=$1 out=$2
    shift 2
    $twofold finetune "$manifest" --root "$fer" --backbone starter --weights random:0 --size 48 --out "$out" \
        --target both --classes basic8,cexpr7 --task distribution --basic-weight 3 --epochs 40 --batch-size 128 \
        --lr 4e-3 --clip 1 --precision bf16 --erasing 0.25 --jitter 0.3 --val-fraction 0.1 --seed 0 "$@"
}

features() {  # MANIFEST WEIGHTS STORE [options]
    manifest=$1 weights=$2 store=$3
    shift 3
    $twofold extract "$manifest" --root "$fer" --store "$store" --backbones starter --weights "starter=$weights" \
        --views original,flip "$@"
}

compounds() {  # STORE [options]
    store=$1
    shift
    $twofold fuse "$store" --classes cexpr7 --head tuned --views original,flip --val-fraction 0.1 --compound-mixup 0 \
        --balanced-sampling 0 --logit-adjustment 0.5 "$@"
}

mkdir "$work"
$twofold manifest fer2013 "$fer" --ferplus "$votes" -o "$work/faces.csv"
# near-duplicates become groups, which never cross a split; its exit code 1 says that the official splits leak
$twofold manifest check "$work/faces.csv" --root "$fer" --group-duplicates -o "$work/grouped.csv" || [ $? = 1 ]

if [ "$folds" ]; then
    $twofold manifest split "$work/grouped.csv" --folds "$folds" -o "$work/folds.csv"
    train "$work/folds.csv" "$work/folds.safetensors" --folds "$folds" "$@"
    features "$work/folds.csv" "$work/folds.safetensors" "$work/folds"
    compounds "$work/folds" --folds "$folds" --out "$work/folds-compound"
    $twofold fuse "$work/folds" --classes basic8 --task classification --views original,flip --folds "$folds" \
        --val-fraction 0.1 --out "$work/folds-basic"
fi

train "$work/grouped.csv" "$work/float32.safetensors" "$@"
mkdir "$work/weights"
$twofold weights convert "$work/float32.safetensors" --half -o "$work/weights/encoder.safetensors"
features "$work/grouped.csv" "$work/weights/encoder.safetensors" "$work/store" --precision fp32
compounds "$work/store" --out "$work/starter"
cp "$work/weights/encoder.safetensors" "$work/starter/"
$twofold export "$work/starter" -o "$work/card"
