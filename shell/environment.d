# CUDA @version@, for the user's systemd units (~/.config/environment.d)
CUDA_HOME=@CUDA_HOME@
PATH=@BIN@:${PATH}
# LD_LIBRARY_PATH: @library_reason@
LD_LIBRARY_PATH=@LIBRARIES@${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}
