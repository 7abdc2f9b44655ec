# CUDA @version@, for ~/.config/environment.d/60-cuda.conf: the user's systemd units read it
CUDA_HOME=@CUDA_HOME@
PATH=@BIN@:${PATH}
# LD_LIBRARY_PATH: @library_reason@
LD_LIBRARY_PATH=@LIBRARIES@${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}
